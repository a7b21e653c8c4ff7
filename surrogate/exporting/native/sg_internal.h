/* What the parts of libsurrogate share; no part of its interface. */
#ifndef SG_INTERNAL_H
#define SG_INTERNAL_H

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

typedef enum sg_state { SG_UNPREPARED, SG_READY, SG_REFUSED } sg_state;

typedef struct sg_program {
  int64_t batch;
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

typedef struct sg_function {
  const char *name;
  int num_inputs, num_outputs, num_parameters, num_programs;
  sg_argument *inputs, *outputs;
  const sg_array **parameters;
  void **parameter_buffers;
  sg_program *programs; /* of one platform, by ascending batch */
  int64_t golden_samples;
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
  sg_array *parameters, *golden;
  int num_parameters, num_golden;
  sg_function *functions;
  int num_functions;
  double *coordinates[2];
  int num_coordinates[2];
} sg_bundle;

/* Verify every file, then parse. `platform` chooses the programs that are kept. */
int sg_bundle_read(const char *directory, const char *platform, sg_bundle *bundle);
void sg_bundle_free(sg_bundle *bundle);
const sg_bundle *sg_bundle_of(const surrogate_model *model);

/* -- plugin ---------------------------------------------------------------------------------- */

/* The path of the plugin for `platform`, which the caller frees. `given`: the caller's choice, or NULL. */
int sg_find_plugin(const sg_bundle *bundle, const char *platform, const char *given, char **plugin);

/* -- backends -------------------------------------------------------------------------------- */

/* What runs programs. All functions return a status with its sentence kept. */
typedef struct sg_backend {
  const char *name; /* as programs in the manifest have it */
  int (*open)(const char *plugin, const char *platform, int device, void **client);
  void (*close)(void *client);
  const char *(*version)(void *client);
  /* An array that stays where it is for as long as the buffer lives. */
  int (*upload)(void *client, const sg_array *array, void **buffer);
  void (*release)(void *client, void *buffer);
  int (*compile)(void *client, const sg_function *function, const sg_program *program, void **executable);
  void (*discard)(void *client, void *executable);
  /* One batch: reads inputs[i], writes outputs[i], whole arrays; `scratch` is the context's, from `scratch_size`. */
  int (*run)(void *client, const sg_function *function, const sg_program *program, const void *const *inputs,
             void *const *outputs, void *scratch);
  size_t (*scratch_size)(const sg_function *function);
} sg_backend;

extern const sg_backend sg_pjrt;

#endif
