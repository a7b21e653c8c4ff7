/* The part of the PJRT C interface (OpenXLA) that libsurrogate uses, declared from its documented binary layout.
 *
 * Every call takes one struct whose first members are its size and a list of extensions. The table of
 * functions begins with size and version; functions are only ever added at its end, so a plugin has one
 * if its table's size says so. The layout below is that of interface 0.81, which later plugins accept.
 */
#ifndef SURROGATE_PJRT_ABI_H
#define SURROGATE_PJRT_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PJ_HEAD       \
  size_t struct_size; \
  void *extensions

typedef struct pj_table {
  PJ_HEAD;
  struct {
    PJ_HEAD;
    int major;
    int minor;
  } version;
  void (*functions[1])(void); /* indexed by pj_function */
} pj_table;

typedef enum pj_function {
  PJ_ERROR_DESTROY = 0,
  PJ_ERROR_MESSAGE = 1,
  PJ_PLUGIN_INITIALIZE = 3,
  PJ_EVENT_DESTROY = 5,
  PJ_EVENT_AWAIT = 8,
  PJ_CLIENT_CREATE = 10,
  PJ_CLIENT_DESTROY = 11,
  PJ_CLIENT_PLATFORM_NAME = 12,
  PJ_CLIENT_ADDRESSABLE_DEVICES = 16,
  PJ_CLIENT_COMPILE = 20,
  PJ_BUFFER_FROM_HOST = 22,
  PJ_EXECUTABLE_DESTROY = 40,
  PJ_EXECUTABLE_NUM_OUTPUTS = 44,
  PJ_EXECUTABLE_SERIALIZE = 49,
  PJ_LOADED_DESTROY = 50,
  PJ_LOADED_GET_EXECUTABLE = 51,
  PJ_LOADED_EXECUTE = 55,
  PJ_DESERIALIZE_AND_LOAD = 56,
  PJ_BUFFER_DESTROY = 58,
  PJ_BUFFER_TO_HOST = 70,
  PJ_BUFFER_UNSAFE_POINTER = 73,
  PJ_EXECUTABLE_OUTPUT_TYPES = 90,
  PJ_EXECUTABLE_OUTPUT_DIMENSIONS = 91
} pj_function;
#define PJ_LAST_FUNCTION PJ_EXECUTABLE_OUTPUT_DIMENSIONS

typedef struct pj_error pj_error;
typedef struct pj_event pj_event;
typedef struct pj_client pj_client;
typedef struct pj_device pj_device;
typedef struct pj_executable pj_executable;
typedef struct pj_loaded pj_loaded;
typedef struct pj_buffer pj_buffer;

enum { PJ_TYPE_S32 = 4, PJ_TYPE_F32 = 11 };
enum { PJ_VALUE_STRING = 0, PJ_VALUE_INT64 = 1, PJ_VALUE_INT64_LIST = 2, PJ_VALUE_FLOAT = 3, PJ_VALUE_BOOL = 4 };
enum { PJ_COPY_DURING_CALL = 0, PJ_UNTIL_TRANSFERRED = 1, PJ_ZERO_COPY = 2 };
enum { PJ_LAYOUT_TILED = 0, PJ_LAYOUT_STRIDES = 1 };

/* A call that returns an error or NULL; two calls, on errors themselves, return nothing. */
typedef pj_error *pj_call(void *args);
typedef void pj_error_call(void *args);

typedef struct pj_error_destroy {
  PJ_HEAD;
  pj_error *error;
} pj_error_destroy;

typedef struct pj_error_message {
  PJ_HEAD;
  const pj_error *error;
  const char *message; /* set by the call; not terminated; lives as long as the error */
  size_t message_size;
} pj_error_message;

typedef struct pj_plugin_initialize {
  PJ_HEAD;
} pj_plugin_initialize;

typedef struct pj_on_event { /* of destroy and await */
  PJ_HEAD;
  pj_event *event;
} pj_on_event;

typedef struct pj_named_value {
  PJ_HEAD;
  const char *name;
  size_t name_size;
  int type;
  union {
    const char *text;
    int64_t integer;
    const int64_t *integers;
    float number;
    bool flag;
  } value;
  size_t value_size; /* of text or a list; otherwise 1 */
} pj_named_value;

typedef struct pj_client_create {
  PJ_HEAD;
  const pj_named_value *options;
  size_t num_options;
  void *get_callback;
  void *get_argument;
  void *put_callback;
  void *put_argument;
  pj_client *client; /* set by the call */
  void *try_get_callback;
  void *try_get_argument;
} pj_client_create;

typedef struct pj_on_client {
  PJ_HEAD;
  pj_client *client;
} pj_on_client;

typedef struct pj_client_platform_name {
  PJ_HEAD;
  pj_client *client;
  const char *name; /* set by the call; not terminated */
  size_t name_size;
} pj_client_platform_name;

typedef struct pj_client_devices {
  PJ_HEAD;
  pj_client *client;
  pj_device *const *devices; /* set by the call */
  size_t num_devices;
} pj_client_devices;

typedef struct pj_program {
  PJ_HEAD;
  char *code;
  size_t code_size;
  const char *format; /* "mlir" */
  size_t format_size;
} pj_program;

typedef struct pj_client_compile {
  PJ_HEAD;
  pj_client *client;
  const pj_program *program;
  const char *options; /* a serialised CompileOptionsProto */
  size_t options_size;
  pj_loaded *executable; /* set by the call */
} pj_client_compile;

typedef struct pj_layout_tiled {
  PJ_HEAD;
  const int64_t *minor_to_major;
  size_t minor_to_major_size;
  const int64_t *tile_dims;
  const size_t *tile_dim_sizes;
  size_t num_tiles;
} pj_layout_tiled;

typedef struct pj_layout {
  PJ_HEAD;
  union {
    pj_layout_tiled tiled;
  } of;
  int type;
} pj_layout;

typedef struct pj_buffer_from_host {
  PJ_HEAD;
  pj_client *client;
  const void *data;
  int type;
  const int64_t *dims;
  size_t num_dims;
  const int64_t *byte_strides; /* NULL: dense, last dimension fastest */
  size_t num_byte_strides;
  int semantics;
  pj_device *device;
  void *memory;
  pj_layout *device_layout;
  pj_event *done_with_data; /* set by the call */
  pj_buffer *buffer;        /* set by the call */
} pj_buffer_from_host;

typedef struct pj_on_executable {
  PJ_HEAD;
  pj_executable *executable;
} pj_on_executable;

typedef struct pj_executable_num_outputs {
  PJ_HEAD;
  pj_executable *executable;
  size_t num_outputs; /* set by the call */
} pj_executable_num_outputs;

typedef struct pj_executable_output_types {
  PJ_HEAD;
  pj_executable *executable;
  int *types; /* set by the call */
  size_t num_types;
} pj_executable_output_types;

typedef struct pj_executable_output_dimensions {
  PJ_HEAD;
  pj_executable *executable;
  size_t num_outputs;  /* set by the call */
  const int64_t *dims; /* of all outputs, one after another */
  const size_t *ranks;
} pj_executable_output_dimensions;

typedef struct pj_executable_serialize {
  PJ_HEAD;
  const pj_executable *executable;
  const char *bytes; /* set by the call; live as long as `serialized` */
  size_t size;
  void *serialized;
  void (*release)(void *serialized);
} pj_executable_serialize;

typedef struct pj_deserialize_and_load {
  PJ_HEAD;
  pj_client *client;
  const char *bytes;
  size_t size;
  pj_loaded *executable; /* set by the call */
  const char *options;   /* NULL: those it was compiled with */
  size_t options_size;
} pj_deserialize_and_load;

typedef struct pj_on_loaded {
  PJ_HEAD;
  pj_loaded *executable;
} pj_on_loaded;

typedef struct pj_loaded_get_executable {
  PJ_HEAD;
  pj_loaded *loaded;
  pj_executable *executable; /* set by the call */
} pj_loaded_get_executable;

typedef struct pj_execute_options {
  PJ_HEAD;
  void *send_callbacks;
  void *receive_callbacks;
  size_t num_send;
  size_t num_receive;
  int launch_id;
  const int64_t *not_donated;
  size_t num_not_donated;
  void *context;
  const char *call_location;
  size_t num_tasks;
  int *task_ids;
  int64_t *incarnation_ids;
} pj_execute_options;

typedef struct pj_loaded_execute {
  PJ_HEAD;
  pj_loaded *executable;
  pj_execute_options *options;
  pj_buffer *const *const *arguments; /* [device][argument] */
  size_t num_devices;
  size_t num_arguments;
  pj_buffer **const *outputs; /* [device][output], set by the call */
  pj_event **complete;        /* [device]; NULL: not wanted */
  pj_device *device;
} pj_loaded_execute;

typedef struct pj_on_buffer {
  PJ_HEAD;
  pj_buffer *buffer;
} pj_on_buffer;

typedef struct pj_buffer_unsafe_pointer {
  PJ_HEAD;
  pj_buffer *buffer;
  uintptr_t pointer; /* set by the call */
} pj_buffer_unsafe_pointer;

typedef struct pj_buffer_to_host {
  PJ_HEAD;
  pj_buffer *source;
  pj_layout *host_layout;
  void *target;
  size_t target_size;
  pj_event *done; /* set by the call */
} pj_buffer_to_host;

#endif
