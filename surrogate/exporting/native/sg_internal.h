/* What the parts of libsurrogate share; no part of its interface. */
#ifndef SG_INTERNAL_H
#define SG_INTERNAL_H

#include <fenv.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "surrogate.h"

#define SG_ALIGNMENT 64 /* at which a plugin may read an array in place */
#define SG_SENTENCE 1024

/* -- errors ---------------------------------------------------------------------------------- */

/* Keep a sentence for surrogate_last_error and return `status`. */
int sg_fail(int status, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

/* Zeroed memory at a multiple of SG_ALIGNMENT, or NULL; freed by free(). */
void *sg_allocate(size_t bytes);

/* -- sha256 ---------------------------------------------------------------------------------- */

typedef struct sg_sha256 {
  uint32_t state[8];
  uint64_t bytes;
  unsigned char block[64];
} sg_sha256;

void sg_sha256_begin(sg_sha256 *hash);
void sg_sha256_add(sg_sha256 *hash, const void *data, size_t size);
void sg_sha256_end(sg_sha256 *hash, char hex[65]);

/* -- json ------------------------------------------------------------------------------------ */

typedef enum sg_json_kind { SG_NULL, SG_BOOL, SG_NUMBER, SG_STRING, SG_ARRAY, SG_OBJECT } sg_json_kind;

typedef struct sg_json {
  sg_json_kind kind;
  double number;        /* of a number; 0 or 1 of a bool */
  const char *text;     /* of a string: UTF-8 without NUL inside */
  const char *key;      /* where it is a member */
  struct sg_json *child; /* first element or member */
  struct sg_json *next;
  size_t count; /* of elements or members */
} sg_json;

typedef struct sg_arena sg_arena;

/* Parse a whole document. NULL with a reason for malformed text, depth over 64, a key that stands twice. */
const sg_json *sg_json_parse(const char *text, size_t size, sg_arena **arena, const char **reason);
void sg_arena_free(sg_arena *arena);
const sg_json *sg_json_get(const sg_json *object, const char *key); /* NULL where absent or no object */

/* -- bundle ---------------------------------------------------------------------------------- */

typedef struct sg_array { /* in parameters.bin or golden.bin */
  const char *name;
  int dtype;
  int rank;
  int64_t shape[SURROGATE_MAX_RANK + 1];
  size_t bytes;
  const unsigned char *data;
} sg_array;

typedef struct sg_argument {
  surrogate_argument described; /* its pointers belong to the manifest */
  double *tolerance;            /* of outputs: repeats every num_tolerance * block elements */
  int num_tolerance;
  int64_t block;
  const sg_array *golden;
} sg_argument;

/* Places of the backends, in the order of sg_backends. */
enum { SG_PJRT, SG_ONNX, SG_BACKENDS };

typedef enum sg_state { SG_UNPREPARED, SG_READY, SG_REFUSED } sg_state;

typedef struct sg_program {
  int64_t batch;
  const struct sg_function *function;
  const sg_array **parameters; /* those it takes, in its order; NULL: all of the function's */
  int num_parameters;
  const unsigned char *code;
  size_t size;
  const char *file;
  pthread_mutex_t lock; /* held while it is compiled and checked */
  _Atomic int state;    /* sg_state */
  int refusal;          /* the status and sentence of SG_REFUSED */
  char sentence[SG_SENTENCE];
  void *executable;
  double *difference, *allowed; /* by output */
} sg_program;

typedef struct sg_guard sg_guard;

typedef struct sg_function {
  const char *name;
  int num_inputs, num_outputs, num_parameters, num_programs;
  sg_argument *inputs, *outputs;
  const sg_array **parameters;
  void **parameter_buffers;
  sg_program *programs; /* of one platform and the backend chosen, by ascending batch */
  sg_program *programs_of[SG_BACKENDS];
  int num_programs_of[SG_BACKENDS];
  int64_t golden_samples;
  sg_guard *guard; /* NULL where there is none */
} sg_function;

typedef struct sg_file {
  const char *name;
  size_t size;
  unsigned char *data;
} sg_file;

typedef struct sg_bundle {
  char *directory;
  char *text; /* of the manifest */
  size_t text_size;
  sg_arena *arena;
  const sg_json *manifest;
  sg_file *files;
  int num_files;
  sg_array *parameters, *golden, *guards;
  int num_parameters, num_golden, num_guards;
  sg_function *functions;
  int num_functions;
  double *coordinates[2];
  int num_coordinates[2];
} sg_bundle;

/* Verify every file, then parse. `platform` chooses the programs that are kept, of all backends. */
int sg_bundle_read(const char *directory, const char *platform, sg_bundle *bundle);
/* Keep the programs of one backend, and of the files what they need. */
int sg_bundle_choose(sg_bundle *bundle, int backend, const char *platform);
void sg_bundle_free(sg_bundle *bundle);
const sg_bundle *sg_bundle_of(const surrogate_model *model);

/* -- guard ----------------------------------------------------------------------------------- */

int sg_guard_parse(sg_bundle *b, const sg_json *entry, sg_function *f); /* after its arguments */
void sg_guard_free(sg_guard *guard);
size_t sg_guard_room(const sg_guard *guard); /* bytes that sg_guard_run needs, aligned */
double sg_guard_threshold(const sg_guard *guard);
void sg_guard_run(const sg_guard *guard, int64_t samples, const void *const *inputs, void *room, int32_t *flags,
                  float *distances); /* flags and distances may be NULL */

/* -- plugin ---------------------------------------------------------------------------------- */

struct sg_backend;

/* Which backend serves `platform`, an index of sg_backends: that named by `given`, else by SURROGATE_BACKEND, else the
 * one whose plugin was named, else what the Bundle records, else the first that it has programs for. */
int sg_choose_backend(const sg_bundle *bundle, const char *platform, const char *given, const char *plugin, int *chosen);

/* The path of the plugin for `platform`, which the caller frees. `given`: the caller's choice, or NULL. */
int sg_find_plugin(const sg_bundle *bundle, const struct sg_backend *backend, const char *platform, const char *given,
                   char **plugin);

/* SHA-256 of a file; not 0 where it cannot be read. */
int sg_hash_file(const char *path, char hex[65]);

/* Arithmetic of others may raise flags that a caller, Fortran above all, has asked to be stopped by. The functions are
 * in libm, which a plugin brings along and this library need not be linked to. */
typedef struct sg_traps {
  int (*hold)(fenv_t *);
  int (*release)(const fenv_t *);
} sg_traps;

void sg_find_traps(void *library, sg_traps *traps);
static inline void sg_hold_traps(const sg_traps *traps, fenv_t *kept) {
  if (traps->hold) traps->hold(kept);
}
static inline void sg_release_traps(const sg_traps *traps, const fenv_t *kept) {
  if (traps->release) traps->release(kept);
}

/* -- cache ----------------------------------------------------------------------------------- */

/* Compiled programs kept from one process to the next; see sg_cache.c. */
typedef struct sg_cache sg_cache;

/* `choice`: options.cache. *cache is NULL where there is to be none. */
int sg_cache_open(const char *choice, sg_cache **cache);
void sg_cache_close(sg_cache *cache);
/* The key of what `plugin` compiles for this processor from `code` and `options`. */
int sg_cache_key(sg_cache *cache, const char *plugin, const char *version, const void *options, size_t options_size,
                 const void *code, size_t size, char key[65]);
/* The verified content under a key, freed by the caller; NULL where there is none, or it is damaged, which is noted. */
void *sg_cache_get(sg_cache *cache, const char *key, size_t *size);
void sg_cache_put(sg_cache *cache, const char *key, const void *data, size_t size);
/* What happened: "off", or "DIRECTORY: 2 found, 1 stored", with the last reason for which it could not serve. */
const char *sg_cache_report(sg_cache *cache);
enum { SG_CACHE_FOUND, SG_CACHE_STORED };
void sg_cache_note(sg_cache *cache, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

/* -- backends -------------------------------------------------------------------------------- */

typedef struct sg_settings {
  int device;      /* which of the platform's */
  int threads;     /* that one call may compute on */
  sg_cache *cache; /* NULL: none */
} sg_settings;

/* What runs programs. All functions that return an int return a status with its sentence kept. */
typedef struct sg_backend {
  const char *name;   /* as programs in the manifest have it */
  const char *symbol; /* which a plugin of it exports */
  const char *record; /* key of the manifest's records of plugins, by platform */
  const char *variable; /* of the environment, which names its plugin alone; NULL: none but SURROGATE_PLUGIN */
  int (*open)(const char *plugin, const char *platform, const sg_settings *settings, void **client);
  void (*close)(void *client);
  const char *(*version)(void *client);
  /* An array that stays where it is for as long as the buffer lives. */
  int (*upload)(void *client, const sg_array *array, void **buffer);
  void (*release)(void *client, void *buffer);
  int (*compile)(void *client, const sg_settings *settings, const sg_program *program, void **executable);
  void (*discard)(void *client, void *executable);
  /* What one context keeps from call to call of a program, so that equal calls need no memory. *lane is negative at the
   * first bind of a context, which sets it; later ones find there the queue that the context's calls wait in. */
  int (*bind)(void *client, const sg_program *program, int *lane, void **binding);
  void (*unbind)(void *client, const sg_program *program, void *binding);
  /* One batch: reads inputs[i], writes outputs[i], whole arrays. An output may overlap any input. */
  int (*run)(void *client, const sg_program *program, void *binding, const void *const *inputs, void *const *outputs);
} sg_backend;

extern const sg_backend sg_pjrt, sg_onnx;
extern const sg_backend *const sg_backends[SG_BACKENDS];

#endif
