/* libsurrogate: call a trained surrogate (a Bundle, NAME.sg) from C, and from whatever can call C.
 *
 *     surrogate_model *model;
 *     surrogate_context *step;
 *     if (surrogate_open(SURROGATE_ABI_VERSION, "climate.sg", NULL, &model)) fail(surrogate_last_error());
 *     if (surrogate_context_create(model, "step", 0, &step)) fail(surrogate_last_error());
 *     for (;;) {                                       the time loop: nothing is opened or compiled in it
 *         const void *in[] = {temperature, pressure};  in the order of surrogate_describe
 *         void *out[] = {temperature, pressure};
 *         if (surrogate_run(step, 1, in, NULL, out, NULL)) fail(surrogate_last_error());
 *     }
 *     surrogate_context_destroy(step);
 *     surrogate_close(model);
 *
 * A potential (a Bundle of energies and forces of atoms) is called by surrogate_atoms_run; see "Atoms" below.
 *
 * Build   cc -std=c11 -O2 -fPIC -fvisibility=hidden -shared -o libsurrogate.so \
 *            surrogate.c sg_*.c -ldl -lpthread
 *         or CMakeLists.txt beside this file. It needs a C11 compiler and a POSIX system, nothing else.
 *
 * Plugin  The programs of a Bundle are compiled, when it is opened, by a PJRT plugin: a shared library such as
 *         that of the Python package lammps-jax-pjrt-cpu (pip download; only its .so is used). It is taken from
 *           1. surrogate_options.plugin,
 *           2. the environment variable SURROGATE_PLUGIN,
 *           3. the file whose name and SHA-256 the Bundle's manifest records, if it lies in a directory of
 *              SURROGATE_PLUGIN_PATH, in the directory that the library was built with, or beside the library.
 *         A Bundle never says from where code is loaded.
 *         A Bundle may hold its programs for ONNX Runtime as well: the plugin then is libonnxruntime.so.1.*, 1.22 or
 *         younger, of the Python package onnxruntime. Which of the two serves is said by surrogate_options.backend
 *         or SURROGATE_BACKEND ("pjrt", "onnx"), else by the kind of the plugin that 1 or 2 names, else by the
 *         Bundle, which records the one that was faster when it was made. SURROGATE_ONNXRUNTIME names the
 *         plugin of "onnx" alone, before SURROGATE_PLUGIN.
 *
 * Cache   Compiling takes a PJRT plugin seconds for large networks. With surrogate_options.cache or SURROGATE_CACHE set
 *         to "user" ($XDG_CACHE_HOME/surrogate/executables, ~/.cache/...) or to a directory, compiled programs are
 *         kept for the next process on this kind of machine: keyed on plugin, processor, options and program, verified
 *         by their hash, from directories and files of the caller's own that nobody else can write. They are machine
 *         code: give no directory to others. The self-test is made with them as with others.
 *
 * Arrays  Every argument is a dense array of float32 or int32 with its samples outermost: for n samples
 *         of an argument of shape {8, 16} the caller passes n * 8 * 16 elements, C order (in Fortran order the
 *         same memory is (16, 8, n)). Values are in the physical units that surrogate_describe states;
 *         normalisation is inside. The caller owns all of them. An output may be the very array that was an input.
 *         Arrays that begin at a multiple of 64 bytes are read in place, others are copied by the plugin.
 *
 * Missing A point without a value in the training data (land for an ocean variable) is ignored in inputs and
 *         NaN in outputs. A NaN at another point, or a date that does not exist, makes outputs NaN; it is no error.
 *
 * Threads A surrogate_model may be shared by any number of threads; a surrogate_context belongs to one at a time.
 *         Use one context per thread. A call computes on the thread that makes it; the large matrix products of a PJRT
 *         program are shared with idle CPUs that the process may use. PJRT_NPROC=1 in the environment forbids it, for
 *         a process that calls from one thread: calls of several would then wait for one another.
 *         Equal calls give equal bits on every thread. Programs of different batch sizes may differ in the last
 *         bits, and the number of samples in a call decides which is used unless the context fixes it.
 *         The caller's floating-point traps are held while a plugin runs, and are as they were afterwards.
 *
 * Errors  Functions return SURROGATE_OK (0) or another surrogate_status; surrogate_last_error() then says in one
 *         sentence what happened, for this thread. Nothing aborts, prints or throws. Output pointers are set to
 *         NULL where a function fails. An output array is undefined where surrogate_run fails.
 */
#ifndef SURROGATE_H
#define SURROGATE_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SURROGATE_API __attribute__((visibility("default")))
#else
#define SURROGATE_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Raised when a caller compiled against this header can no longer call the library. */
#define SURROGATE_ABI_VERSION 1
#define SURROGATE_MAX_RANK 7

typedef enum surrogate_status {
  SURROGATE_OK = 0,
  SURROGATE_INVALID = 1,   /* an argument of the call: NULL, a size, a name that does not exist */
  SURROGATE_ABI = 2,       /* caller, library and Bundle do not fit one another */
  SURROGATE_BUNDLE = 3,    /* files missing, extra, changed, or not those of a Bundle */
  SURROGATE_PLUGIN = 4,    /* the plugin is absent, is no plugin, or cannot start on this machine */
  SURROGATE_COMPILE = 5,   /* the plugin refuses a program */
  SURROGATE_SELF_TEST = 6, /* a result differs from the golden vector by more than its tolerance */
  SURROGATE_EXECUTE = 7,   /* the plugin failed while running */
  SURROGATE_MEMORY = 8     /* no memory */
} surrogate_status;

enum { SURROGATE_FLOAT32 = 0, SURROGATE_INT32 = 1 };
enum { SURROGATE_INPUT = 0, SURROGATE_OUTPUT = 1 };

typedef struct surrogate_model surrogate_model;     /* a Bundle that was opened */
typedef struct surrogate_context surrogate_context; /* what one thread needs to call one function */

/* Options of surrogate_open: zero-initialise, set struct_size and what you need. */
typedef struct surrogate_options {
  size_t struct_size;   /* sizeof(surrogate_options) */
  const char *plugin;   /* path of a plugin; NULL: see "Plugin" above */
  const char *platform; /* "cpu", "cuda", ...: which programs of the Bundle; NULL: "cpu" */
  int device;           /* which of the platform's devices, from 0 */
  int lazy;             /* 1: compile and check nothing before it is needed */
  int skip_self_test;   /* 1: do not compare with the golden vectors; the results are then nobody's promise */
  const char *backend;  /* "pjrt" or "onnx"; NULL: see "Plugin" above */
  int threads;          /* that ONNX Runtime computes one call on; 0: one. Of PJRT the variable PJRT_NPROC says it */
  const char *cache;    /* "user", a directory, or "off"; NULL: as SURROGATE_CACHE says, else off. See "Cache" above */
} surrogate_options;

/* One argument, in C order. Pointers are valid until surrogate_close. */
typedef struct surrogate_argument {
  size_t struct_size; /* sizeof(surrogate_argument), set by the caller */
  const char *name;
  const char *role;  /* prognostic, diagnostic, forcing, static, time */
  const char *units; /* as the training data spell them; "1" where there are none */
  const char *description;
  int dtype; /* SURROGATE_FLOAT32 or SURROGATE_INT32 */
  int rank;  /* without the sample dimension, which comes before */
  int64_t shape[SURROGATE_MAX_RANK];
  const char *dims[SURROGATE_MAX_RANK]; /* history, step, level, latitude, longitude, ... */
  size_t bytes;                         /* of one sample */
  int num_levels;                       /* values along the dimension "level", where there is one */
  const double *levels;
  const char *level_units;
} surrogate_argument;

/* SURROGATE_ABI_VERSION of the library. */
SURROGATE_API int surrogate_abi_version(void);

/* The last failure in this thread; "" before any. Valid until the thread's next call that fails. */
SURROGATE_API const char *surrogate_last_error(void);

/* Open a Bundle: verify every file, load the plugin, compile each function for its smallest batch, and compare with
 * the golden vectors. Seconds for large networks: do it once.
 * abi_version: SURROGATE_ABI_VERSION. options: NULL for the defaults. */
SURROGATE_API int surrogate_open(int abi_version, const char *directory, const surrogate_options *options,
                                 surrogate_model **result);

/* Close; NULL is allowed. Contexts must have been destroyed, or SURROGATE_INVALID is returned and it stays open. */
SURROGATE_API int surrogate_close(surrogate_model *model);

/* Functions of the Bundle: "step" advances a field model by one time step, "steps10" by ten, a sample being a whole map;
 * "point" takes columns, each a sample apart from all others, as a parameterisation is called. */
SURROGATE_API int surrogate_num_functions(const surrogate_model *model);
SURROGATE_API const char *surrogate_function_name(const surrogate_model *model, int index); /* NULL beyond the last */

/* A fact about the Bundle as text, or NULL: "name", "time_step" (ISO 8601), "calendar", "missing", "platform",
 * "backend", "plugin" (its path), "plugin_version" (of the PJRT interface, "0.115", or of ONNX Runtime), "digest" (of
 * the manifest), "cache" (what it gave and why not more; valid until the next call). */
SURROGATE_API const char *surrogate_info(const surrogate_model *model, const char *key);

/* Coordinate of the grid: "latitude" (rows, ascending, degrees north) or "longitude" (columns). */
SURROGATE_API int surrogate_coordinate(const surrogate_model *model, const char *name, const double **values, int *count);

/* How many arguments a function has; direction is SURROGATE_INPUT or SURROGATE_OUTPUT. -1 for a name that does not
 * exist. */
SURROGATE_API int surrogate_num_arguments(const surrogate_model *model, const char *function, int direction);

/* Describe an argument by its index. Set result->struct_size first. */
SURROGATE_API int surrogate_describe(const surrogate_model *model, const char *function, int direction, int index,
                                     surrogate_argument *result);

/* The index of an argument by name, or -1. */
SURROGATE_API int surrogate_find(const surrogate_model *model, const char *function, int direction, const char *name);

/* Batch sizes that the Bundle has programs for, ascending; the number of them, of which at most capacity are written. */
SURROGATE_API int surrogate_batches(const surrogate_model *model, const char *function, int64_t *sizes, int capacity);

/* Compile and check now whatever a call of `samples` samples will need. */
SURROGATE_API int surrogate_prepare(surrogate_model *model, const char *function, int64_t samples);

/* Of a program that was checked: the difference from the golden vector that came nearest to its tolerance, in the
 * output's units. */
SURROGATE_API int surrogate_self_test(const surrogate_model *model, const char *function, int64_t batch, int output,
                                      double *difference, double *tolerance);

/* A context to call `function` from one thread. batch: 0 lets each call choose among the programs; one of
 * surrogate_batches() always uses that one, so that a sample's result does not depend on how many
 * others it is called with (on how a domain is decomposed, for one). */
SURROGATE_API int surrogate_context_create(surrogate_model *model, const char *function, int64_t batch,
                                           surrogate_context **result);
SURROGATE_API int surrogate_context_destroy(surrogate_context *context); /* NULL is allowed */

/* Run on `samples` samples, any number from 0: they are cut into the batches of the programs, and the last one padded.
 *
 * inputs, outputs: one pointer per argument in the order of surrogate_describe.
 * input_bytes, output_bytes: the size of each array, checked against what the samples need; NULL: not checked.
 */
SURROGATE_API int surrogate_run(surrogate_context *context, int64_t samples, const void *const *inputs,
                                const size_t *input_bytes, void *const *outputs, const size_t *output_bytes);

/* -- Atoms ------------------------------------------------------------------------------------
 *
 *     surrogate_atoms *potential;
 *     surrogate_system system = {.struct_size = sizeof system, .num_atoms = n, .positions = r, .numbers = z,
 *                                .cell = cell, .pbc = {1, 1, 1}};
 *     surrogate_energies result = {.struct_size = sizeof result, .forces = f};
 *     if (surrogate_atoms_create(model, &potential)) fail(surrogate_last_error());
 *     for (;;) {                                                 the time loop moves r
 *         if (surrogate_atoms_run(potential, &system, &result)) fail(surrogate_last_error());
 *         result.energy, f, result.stress ...
 *     }
 *     surrogate_atoms_destroy(potential);
 *
 * Units   Positions and cells in angstrom, energies in eV, forces in eV/angstrom, stress in eV/angstrom^3; all of them
 *         double. Vectors between neighbors are formed in double precision, the network computes in float32, and
 *         reference energies are added and energies summed in double precision.
 *
 * Size    A program takes so many atoms and so many neighbors of an atom. The Bundle has a ladder of them
 *         (surrogate_atoms_describe); every call takes the first that holds the system, padding it, and one
 *         that none holds is refused with its numbers (SURROGATE_INVALID). A program is compiled and checked when
 *         it is first needed: surrogate_atoms_prepare does that beforehand. The ladder is the first functions of
 *         surrogate_function_name; surrogate_run calls them with neighbors that were found elsewhere.
 *
 * Neighbors   are found by the library, periodic images included, however small the cell; atoms may lie outside of it.
 *         Or the caller has them: see surrogate_system.neighbors.
 *
 * Ghosts  In a domain-decomposed simulation positions and numbers hold num_atoms atoms of this process, then
 *         num_ghosts copies of those around them, with pbc all 0. Energies are those of the atoms, and
 *         so is what they give to forces on ghosts, which are returned to be added to the forces on the atoms that the
 *         ghosts are copies of. Energies, virials and such forces of all processes add up to those of the whole. All
 *         atoms within layers * cutoff of an atom of this process must be there.
 */

typedef struct surrogate_atoms surrogate_atoms; /* what one thread needs to call a potential */

/* Pointers are valid until surrogate_atoms_destroy. */
typedef struct surrogate_atoms_info {
  size_t struct_size;   /* sizeof(surrogate_atoms_info), set by the caller */
  const char *function; /* the potential's name */
  double cutoff;        /* angstrom */
  int layers;           /* an atom's energy depends on those within layers * cutoff */
  int num_species;
  const int32_t *species;           /* atomic numbers, ascending */
  const double *reference_energies; /* eV an atom of each species, part of every energy */
  int num_capacities;               /* programs, in the order in which they are tried */
  const int64_t *max_atoms;         /* of each: atoms, ghosts that matter among them */
  const int64_t *max_neighbors;     /* of each: neighbors of one atom */
} surrogate_atoms_info;

/* One system: zero-initialise, set struct_size and what there is. */
typedef struct surrogate_system {
  size_t struct_size; /* sizeof(surrogate_system) */
  int64_t num_atoms;
  const double *positions; /* (num_atoms + num_ghosts) * 3, x y z of each */
  const int32_t *numbers;  /* num_atoms + num_ghosts atomic numbers */
  const double *cell;      /* 9: x y z of the first vector, of the second, of the third; NULL where there is none */
  int pbc[3];              /* periodic along it: images are found by the library */
  int64_t num_ghosts;
  const int32_t *owners; /* num_ghosts: the atom that each is a periodic copy of, where all are copies of atoms of this
                          * process (a single one); their forces are then those of the atoms, and ghosts
                          * within one cutoff of the atoms are enough. Needs neighbors. NULL otherwise. */
  /* The caller's full neighbor lists, or NULL: the library finds them. Entry k of neighbors[i] is the index of a
   * neighbor of i among atoms and ghosts (its lowest 29 bits are), k < num_neighbors[i]. Both i and j have each other
   * in their lists where both have one. Neighbors beyond the cutoff are skipped, so lists may have a skin. */
  int64_t num_lists; /* num_atoms, or num_atoms + num_ghosts, which layers > 1 needs without owners */
  const int32_t *num_neighbors;
  const int32_t *const *neighbors;
} surrogate_system;

/* Results: set struct_size and the arrays that are wanted. */
typedef struct surrogate_energies {
  size_t struct_size; /* sizeof(surrogate_energies) */
  double energy;      /* eV, of the num_atoms atoms, with reference energies */
  double virial[9];   /* eV: derivative of the energy by a symmetric strain, xx xy xz yx ...; symmetric */
  double stress[9];   /* eV/angstrom^3: virial over volume, so that tension is positive; NaN unless cell is given and pbc
                       * is 1 in all three directions, or there are ghosts */
  int64_t used_atoms; /* what a capacity had to hold: atoms, ghosts that matter among them */
  int64_t used_neighbors;
  int capacity;          /* the place in the ladder of the program that was run */
  double *forces;        /* (num_atoms + num_ghosts) * 3, eV/angstrom, or NULL */
  double *atom_energies; /* num_atoms, eV, or NULL; with reference energies */
  double *atom_virials;  /* (num_atoms + num_ghosts) * 9, eV, or NULL: what sums to virial, by the atom at which the
                          * vectors to neighbors begin; those of owned ghosts are the atoms' */
} surrogate_energies;

/* A context to call the potential of a Bundle from one thread. SURROGATE_INVALID for a Bundle of something else. */
SURROGATE_API int surrogate_atoms_create(surrogate_model *model, surrogate_atoms **result);
SURROGATE_API int surrogate_atoms_destroy(surrogate_atoms *atoms); /* NULL is allowed */

/* Describe it. Set result->struct_size first. */
SURROGATE_API int surrogate_atoms_describe(const surrogate_atoms *atoms, surrogate_atoms_info *result);

/* Compile and check now what a system of so many atoms, with so many neighbors of one atom at most, will need. */
SURROGATE_API int surrogate_atoms_prepare(surrogate_atoms *atoms, int64_t num_atoms, int64_t num_neighbors);

/* Energy and its derivatives of one system. */
SURROGATE_API int surrogate_atoms_run(surrogate_atoms *atoms, const surrogate_system *system,
                                      surrogate_energies *result);
/* The guard: whether the inputs of a sample lie within what the surrogate was trained on.
 *
 * A flag is 0, or the sum of SURROGATE_OUTSIDE_RANGE (an input lies outside the range of the training data, widened by
 * the margin that the export chose; any point of a map counts) and SURROGATE_OUTSIDE_DISTRIBUTION (each may be
 * in range, but not together: the Mahalanobis distance of the column's numbers, or of the maps' area means, exceeds
 * the threshold). The distance is divided by the root of the number of inputs: a typical sample has 1. What is not a
 * number is outside. Dates are not looked at. What a caller does with it is the caller's business: its own physics,
 * a shorter step, a line in the log.
 *
 * Potentials have no guard yet. It looks at each input once and allocates nothing.
 */
enum { SURROGATE_INSIDE = 0, SURROGATE_OUTSIDE_RANGE = 1, SURROGATE_OUTSIDE_DISTRIBUTION = 2 };

/* The distance beyond which a sample is outside; SURROGATE_INVALID where the function has no guard. */
SURROGATE_API int surrogate_guard_threshold(const surrogate_model *model, const char *function, double *threshold);

/* Look at inputs without running. flags: one per sample, or NULL; distances: one per sample, or NULL. */
SURROGATE_API int surrogate_guard(surrogate_context *context, int64_t samples, const void *const *inputs,
                                  const size_t *input_bytes, int32_t *flags, float *distances);

/* surrogate_run, after surrogate_guard has filled flags. The outputs of all samples are computed, whatever the flags. */
SURROGATE_API int surrogate_run_guarded(surrogate_context *context, int64_t samples, const void *const *inputs,
                                        const size_t *input_bytes, void *const *outputs, const size_t *output_bytes,
                                        int32_t *flags);

#ifdef __cplusplus
}
#endif
#endif
