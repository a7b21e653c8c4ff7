/* The part of ONNX Runtime's C interface that libsurrogate uses, declared from its documented binary layout.
 *
 * A library exports OrtGetApiBase, whose first member gives the table of functions of a version of the interface, or
 * NULL for a version it does not have. The table holds pointers to functions only, and only ever grows at its end, so a
 * function's place is the same in every version from that in which it came. The places below were counted in the order
 * in which the header of version 29 (onnxruntime_c_api.h, ONNX Runtime 1.29) declares them; the youngest of them,
 * AddExternalInitializers, came with version 12. OX_VERSION is asked for, that of the oldest library that is
 * supported, and when a library is opened three functions of known effect are tried before any other is called.
 *
 * Functions that can fail return an ox_status, NULL for success, which the caller releases.
 */
#ifndef SURROGATE_ONNX_ABI_H
#define SURROGATE_ONNX_ABI_H

#include <stddef.h>
#include <stdint.h>

#define OX_VERSION 22

typedef struct ox_table {
  void (*functions[1])(void); /* indexed by ox_function */
} ox_table;

typedef struct ox_base {
  const ox_table *(*get)(uint32_t version);
  const char *(*version)(void); /* "1.32.0" */
} ox_base;

typedef enum ox_function {
  OX_CREATE_STATUS = 0,
  OX_ERROR_CODE = 1,
  OX_ERROR_MESSAGE = 2,
  OX_CREATE_ENV = 3,
  OX_DISABLE_TELEMETRY = 6,
  OX_CREATE_SESSION_FROM_ARRAY = 8,
  OX_CREATE_SESSION_OPTIONS = 10,
  OX_SET_EXECUTION_MODE = 13,
  OX_SET_OPTIMIZATION = 23,
  OX_SET_INTRA_THREADS = 24,
  OX_SET_INTER_THREADS = 25,
  OX_INPUT_COUNT = 30,
  OX_OUTPUT_COUNT = 31,
  OX_INPUT_TYPE = 33,
  OX_OUTPUT_TYPE = 34,
  OX_INPUT_NAME = 36,
  OX_OUTPUT_NAME = 37,
  OX_CREATE_RUN_OPTIONS = 39,
  OX_CREATE_TENSOR_WITH_DATA = 49,
  OX_AS_TENSOR_TYPE = 55,
  OX_ELEMENT_TYPE = 60,
  OX_NUM_DIMENSIONS = 61,
  OX_DIMENSIONS = 62,
  OX_CREATE_CPU_MEMORY = 69,
  OX_ALLOCATOR_FREE = 76,
  OX_DEFAULT_ALLOCATOR = 78,
  OX_RELEASE_ENV = 92,
  OX_RELEASE_STATUS = 93,
  OX_RELEASE_MEMORY = 94,
  OX_RELEASE_SESSION = 95,
  OX_RELEASE_VALUE = 96,
  OX_RELEASE_RUN_OPTIONS = 97,
  OX_RELEASE_TYPE = 98,
  OX_RELEASE_SESSION_OPTIONS = 100,
  OX_ADD_CONFIG = 130,
  OX_RUN_WITH_BINDING = 133,
  OX_CREATE_BINDING = 134,
  OX_RELEASE_BINDING = 135,
  OX_BIND_INPUT = 136,
  OX_BIND_OUTPUT = 137,
  OX_ADD_EXTERNAL_INITIALIZERS = 210
} ox_function;

typedef struct ox_status ox_status;
typedef struct ox_env ox_env;
typedef struct ox_options ox_options; /* of a session */
typedef struct ox_session ox_session;
typedef struct ox_run_options ox_run_options;
typedef struct ox_binding ox_binding;
typedef struct ox_value ox_value;
typedef struct ox_memory ox_memory;
typedef struct ox_type ox_type;
typedef struct ox_tensor_type ox_tensor_type; /* belongs to its ox_type */
typedef struct ox_allocator ox_allocator;

enum { OX_LOG_FATAL = 4, OX_SEQUENTIAL = 0, OX_OPTIMIZE_ALL = 99, OX_DEVICE_ALLOCATOR = 0, OX_MEMORY_DEFAULT = 0 };
enum { OX_FLOAT32 = 1, OX_INT32 = 6 };

/* How each function is called. */
typedef ox_status *ox_create_status(int code, const char *message);
typedef int ox_error_code(const ox_status *status);
typedef const char *ox_error_message(const ox_status *status);
typedef ox_status *ox_create_env(int severity, const char *id, ox_env **env);
typedef ox_status *ox_on_env(const ox_env *env);
typedef ox_status *ox_create_session_from_array(const ox_env *env, const void *model, size_t size,
                                                const ox_options *options, ox_session **session);
typedef ox_status *ox_create_options(ox_options **options);
typedef ox_status *ox_set_option(ox_options *options, int value);
typedef ox_status *ox_add_config(ox_options *options, const char *key, const char *value);
typedef ox_status *ox_add_external(ox_options *options, const char *const *names, const ox_value *const *values,
                                   size_t count);
typedef ox_status *ox_count(const ox_session *session, size_t *count);
typedef ox_status *ox_type_of(const ox_session *session, size_t index, ox_type **type);
typedef ox_status *ox_name_of(const ox_session *session, size_t index, ox_allocator *allocator, char **name);
typedef ox_status *ox_as_tensor_type(const ox_type *type, const ox_tensor_type **tensor);
typedef ox_status *ox_element_type(const ox_tensor_type *tensor, int *type);
typedef ox_status *ox_num_dimensions(const ox_tensor_type *tensor, size_t *count);
typedef ox_status *ox_dimensions(const ox_tensor_type *tensor, int64_t *dims, size_t count);
typedef ox_status *ox_create_run_options(ox_run_options **options);
typedef ox_status *ox_create_tensor(const ox_memory *memory, void *data, size_t size, const int64_t *shape, size_t rank,
                                    int type, ox_value **value);
typedef ox_status *ox_create_memory(int allocator, int kind, ox_memory **memory);
typedef ox_status *ox_default_allocator(ox_allocator **allocator);
typedef ox_status *ox_allocator_free(ox_allocator *allocator, void *memory);
typedef ox_status *ox_create_binding(ox_session *session, ox_binding **binding);
typedef ox_status *ox_bind(ox_binding *binding, const char *name, const ox_value *value);
typedef ox_status *ox_run(ox_session *session, const ox_run_options *options, const ox_binding *binding);
typedef void ox_release(void *object);

#endif
