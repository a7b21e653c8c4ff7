/* The PJRT backend: programs compiled and run by a plugin that was opened with dlopen.
 *
 * One client of a plugin serves all Bundles of a process, since on an accelerator each client claims memory of its
 * own. A plugin is never unloaded: its threads and its runtime do not survive that.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fenv.h>
#include <stdlib.h>
#include <string.h>

#include "pjrt_abi.h"
#include "sg_internal.h"

typedef struct client {
  struct client *next;
  char *plugin, *platform;
  int device_index;
  int users;
  const pj_table *api;
  pj_client *client;
  pj_device *device;
  bool host_memory; /* the device reads the caller's arrays in place */
  char version[24];
  int (*hold_traps)(fenv_t *);
  int (*release_traps)(const fenv_t *);
} client;

static pthread_mutex_t clients_lock = PTHREAD_MUTEX_INITIALIZER;
static client *clients;

#define INIT(args) (memset(&(args), 0, sizeof(args)), (args).struct_size = sizeof(args))

typedef void (*any_function)(void);

static any_function entry(const client *c, pj_function which) { return c->api->functions[which]; }

/* XLA's arithmetic may raise flags that a caller, Fortran above all, has asked to be stopped by. */
static void hold_traps(const client *c, fenv_t *kept) {
  if (c->hold_traps) c->hold_traps(kept);
}

static void release_traps(const client *c, const fenv_t *kept) {
  if (c->release_traps) c->release_traps(kept);
}

/* Turn the plugin's error into ours; "" or a prefix that says what was being done. */
static int check(const client *c, pj_error *error, int status, const char *doing) {
  if (!error) return SURROGATE_OK;
  pj_error_message message;
  INIT(message);
  message.error = error;
  ((pj_error_call *)entry(c, PJ_ERROR_MESSAGE))(&message);
  int size = message.message_size > 500 ? 500 : (int)message.message_size;
  sg_fail(status, "%s: %.*s", doing, size, message.message);
  pj_error_destroy destroy;
  INIT(destroy);
  destroy.error = error;
  ((pj_error_call *)entry(c, PJ_ERROR_DESTROY))(&destroy);
  return status;
}

static int call(const client *c, pj_function which, void *args, int status, const char *doing) {
  return check(c, ((pj_call *)entry(c, which))(args), status, doing);
}

static int await(const client *c, pj_event *event, int status, const char *doing) {
  if (!event) return SURROGATE_OK;
  pj_on_event on;
  INIT(on);
  on.event = event;
  int result = call(c, PJ_EVENT_AWAIT, &on, status, doing);
  pj_error *error = ((pj_call *)entry(c, PJ_EVENT_DESTROY))(&on);
  return result ? result : check(c, error, status, doing);
}

static void destroy_buffer(const client *c, pj_buffer *buffer) {
  if (!buffer) return;
  pj_on_buffer on;
  INIT(on);
  on.buffer = buffer;
  pj_error *error = ((pj_call *)entry(c, PJ_BUFFER_DESTROY))(&on);
  if (error) check(c, error, SURROGATE_EXECUTE, "a buffer cannot be released");
}

static int load(client *c) {
  dlerror();
  void *library = dlopen(c->plugin, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *why = dlerror();
    return sg_fail(SURROGATE_PLUGIN, "the plugin cannot be loaded: %s", why ? why : c->plugin);
  }
  const pj_table *(*get)(void);
  *(void **)&get = dlsym(library, "GetPjrtApi");
  if (!get) return sg_fail(SURROGATE_PLUGIN, "%s is no PJRT plugin: it has no GetPjrtApi", c->plugin);
  c->api = get();
  if (!c->api) return sg_fail(SURROGATE_PLUGIN, "%s gives no PJRT interface", c->plugin);
  size_t needed = offsetof(pj_table, functions) + (PJ_LAST_FUNCTION + 1) * sizeof(void *);
  if (c->api->struct_size < needed || c->api->version.major != 0)
    return sg_fail(SURROGATE_PLUGIN, "%s offers PJRT %d.%d with a table of %zu bytes; this library needs 0.x with %zu",
                   c->plugin, c->api->version.major, c->api->version.minor, c->api->struct_size, needed);
  char *to = c->version; /* "0.115" */
  int minor = c->api->version.minor, scale = 1;
  while (minor / scale >= 10) scale *= 10;
  *to++ = '0';
  *to++ = '.';
  for (; scale && to < c->version + sizeof c->version - 1; scale /= 10) *to++ = (char)('0' + minor / scale % 10);
  *to = 0;
  /* In libm, which a plugin brings along and this library need not be linked to. */
  *(void **)&c->hold_traps = dlsym(library, "feholdexcept");
  *(void **)&c->release_traps = dlsym(library, "fesetenv");
  if (!c->hold_traps || !c->release_traps) c->hold_traps = NULL, c->release_traps = NULL;
  return SURROGATE_OK;
}

static pj_named_value option(const char *name, int type) {
  pj_named_value v;
  INIT(v);
  v.name = name;
  v.name_size = strlen(name);
  v.type = type;
  v.value_size = 1;
  return v;
}

static int start(client *c) {
  pj_plugin_initialize initialize;
  INIT(initialize);
  int status = call(c, PJ_PLUGIN_INITIALIZE, &initialize, SURROGATE_PLUGIN, "the plugin cannot be initialised");
  if (status) return status;
  pj_client_create create;
  INIT(create);
  /* By default a CPU client shows several devices, and a GPU client takes most of the memory of every GPU. */
  pj_named_value options[2];
  const int64_t visible = c->device_index;
  if (!strcmp(c->platform, "cpu")) {
    options[0] = option("cpu_device_count", PJ_VALUE_INT64);
    options[0].value.integer = 1;
    create.num_options = 1;
  } else if (!strcmp(c->platform, "cuda") || !strcmp(c->platform, "rocm")) {
    options[0] = option("preallocate", PJ_VALUE_BOOL);
    options[0].value.flag = false;
    options[1] = option("visible_devices", PJ_VALUE_INT64_LIST);
    options[1].value.integers = &visible;
    create.num_options = 2;
  }
  create.options = options;
  status = call(c, PJ_CLIENT_CREATE, &create, SURROGATE_PLUGIN, "the plugin cannot start on this machine");
  if (status) return status;
  c->client = create.client;
  pj_client_devices devices;
  INIT(devices);
  devices.client = c->client;
  status = call(c, PJ_CLIENT_ADDRESSABLE_DEVICES, &devices, SURROGATE_PLUGIN, "the plugin's devices");
  if (status) return status;
  size_t index = create.num_options == 2 ? 0 : (size_t)c->device_index;
  if (index >= devices.num_devices)
    return sg_fail(SURROGATE_PLUGIN, "%s has %zu devices, so there is no device %d", c->plugin, devices.num_devices,
                   c->device_index);
  c->device = devices.devices[index];
  pj_client_platform_name name;
  INIT(name);
  name.client = c->client;
  status = call(c, PJ_CLIENT_PLATFORM_NAME, &name, SURROGATE_PLUGIN, "the plugin's platform");
  if (status) return status;
  bool cpu = name.name_size == 3 && (!memcmp(name.name, "cpu", 3) || !memcmp(name.name, "Cpu", 3));
  if (cpu != !strcmp(c->platform, "cpu"))
    return sg_fail(SURROGATE_PLUGIN, "%s is a plugin for %.*s, not for %s", c->plugin, (int)name.name_size, name.name,
                   c->platform);
  c->host_memory = cpu;
  return SURROGATE_OK;
}

static void stop(client *c) {
  if (c->client) {
    pj_on_client on;
    INIT(on);
    on.client = c->client;
    pj_error *error = ((pj_call *)entry(c, PJ_CLIENT_DESTROY))(&on);
    if (error) check(c, error, SURROGATE_PLUGIN, "the plugin's client cannot be destroyed");
  }
  free(c->plugin);
  free(c->platform);
  free(c);
}

static int pjrt_open(const char *plugin, const char *platform, int device, void **result) {
  int status = SURROGATE_OK;
  pthread_mutex_lock(&clients_lock);
  for (client *c = clients; c; c = c->next) {
    if (strcmp(c->plugin, plugin) || strcmp(c->platform, platform) || c->device_index != device) continue;
    c->users++;
    *result = c;
    pthread_mutex_unlock(&clients_lock);
    return SURROGATE_OK;
  }
  client *c = calloc(1, sizeof *c);
  if (c) c->plugin = strdup(plugin), c->platform = strdup(platform);
  if (!c || !c->plugin || !c->platform) {
    status = sg_fail(SURROGATE_MEMORY, "there is no memory");
  } else {
    c->device_index = device;
    c->users = 1;
    status = load(c);
    fenv_t kept;
    if (!status) {
      hold_traps(c, &kept); /* the plugin's threads inherit the state of this one */
      status = start(c);
      release_traps(c, &kept);
    }
  }
  if (status) {
    if (c) stop(c);
  } else {
    c->next = clients;
    clients = c;
    *result = c;
  }
  pthread_mutex_unlock(&clients_lock);
  return status;
}

static void pjrt_close(void *opened) {
  client *c = opened;
  pthread_mutex_lock(&clients_lock);
  if (--c->users == 0) {
    client **link = &clients;
    while (*link != c) link = &(*link)->next;
    *link = c->next;
    stop(c);
  }
  pthread_mutex_unlock(&clients_lock);
}

static const char *pjrt_version(void *opened) { return ((client *)opened)->version; }

static int from_host(const client *c, const void *data, int dtype, const int64_t *shape, int rank, int semantics,
                     pj_buffer **buffer, pj_event **done, const char *doing) {
  pj_buffer_from_host from;
  INIT(from);
  from.client = c->client;
  from.data = data;
  from.type = dtype == SURROGATE_INT32 ? PJ_TYPE_S32 : PJ_TYPE_F32;
  from.dims = shape;
  from.num_dims = (size_t)rank;
  from.semantics = semantics;
  from.device = c->device;
  int status = call(c, PJ_BUFFER_FROM_HOST, &from, SURROGATE_EXECUTE, doing);
  *buffer = status ? NULL : from.buffer;
  *done = status ? NULL : from.done_with_data;
  return status;
}

static void drop_event(const client *c, pj_event *event) {
  if (!event) return;
  pj_on_event on;
  INIT(on);
  on.event = event;
  pj_error *error = ((pj_call *)entry(c, PJ_EVENT_DESTROY))(&on);
  if (error) check(c, error, SURROGATE_EXECUTE, "an event cannot be released");
}

static int pjrt_upload(void *opened, const sg_array *array, void **buffer) {
  client *c = opened;
  pj_buffer *made = NULL;
  pj_event *done = NULL;
  int semantics = c->host_memory ? PJ_ZERO_COPY : PJ_UNTIL_TRANSFERRED;
  int status = from_host(c, array->data, array->dtype, array->shape, array->rank, semantics, &made, &done, array->name);
  /* Of an array used in place the event comes when the buffer is released, so it is not waited for. */
  if (c->host_memory) drop_event(c, done);
  else if (!status) status = await(c, done, SURROGATE_EXECUTE, array->name);
  *buffer = made;
  return status;
}

static void pjrt_release(void *opened, void *buffer) { destroy_buffer(opened, buffer); }

/* CompileOptionsProto, by hand: executable_build_options (3) = {device_ordinal (1): -1, num_replicas (4): 1,
 * num_partitions (5): 1}, compile_portable_executable (4): true, and on a CPU env_option_overrides (7):
 * {"xla_cpu_multi_thread_eigen": bool_field (2) false}. Without the last, several calling threads and a
 * Fourier transform have been seen to wait for one another for ever. */
#define EIGEN "xla_cpu_multi_thread_eigen"
static const char OPTIONS[] = "\x1a\x0f\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x20\x01\x28\x01"
                              "\x20\x01";
static const char CPU_OPTIONS[] = "\x3a\x20\x0a\x1a" EIGEN "\x12\x02\x10\x00";

/* A program must write exactly the arrays that the manifest promises, or memory would be overrun or left as it was. */
static int check_outputs(const client *c, const sg_function *f, const sg_program *p, pj_executable *executable) {
  pj_executable_num_outputs count;
  INIT(count);
  count.executable = executable;
  int status = call(c, PJ_EXECUTABLE_NUM_OUTPUTS, &count, SURROGATE_COMPILE, p->file);
  pj_executable_output_types types;
  INIT(types);
  types.executable = executable;
  if (!status) status = call(c, PJ_EXECUTABLE_OUTPUT_TYPES, &types, SURROGATE_COMPILE, p->file);
  pj_executable_output_dimensions shapes;
  INIT(shapes);
  shapes.executable = executable;
  if (!status) status = call(c, PJ_EXECUTABLE_OUTPUT_DIMENSIONS, &shapes, SURROGATE_COMPILE, p->file);
  if (status) return status;
  size_t expected = (size_t)f->num_outputs;
  if (count.num_outputs != expected || types.num_types != expected || shapes.num_outputs != expected)
    return sg_fail(SURROGATE_BUNDLE, "%s has %zu outputs, the manifest says %zu", p->file, count.num_outputs, expected);
  const int64_t *dims = shapes.dims;
  for (int i = 0; i < f->num_outputs; i++) {
    const surrogate_argument *a = &f->outputs[i].described;
    bool same = types.types[i] == PJ_TYPE_F32 && shapes.ranks[i] == (size_t)a->rank + 1 && dims[0] == p->batch;
    for (int k = 0; same && k < a->rank; k++) same = dims[k + 1] == a->shape[k];
    if (!same) return sg_fail(SURROGATE_BUNDLE, "%s: its output '%s' is not of the manifest's shape", p->file, a->name);
    dims += shapes.ranks[i];
  }
  return SURROGATE_OK;
}

static int pjrt_compile(void *opened, const sg_function *f, const sg_program *p, void **executable) {
  client *c = opened;
  char options[sizeof OPTIONS + sizeof CPU_OPTIONS];
  memcpy(options, OPTIONS, sizeof OPTIONS - 1);
  memcpy(options + sizeof OPTIONS - 1, CPU_OPTIONS, sizeof CPU_OPTIONS - 1);
  pj_program program;
  INIT(program);
  program.code = (char *)p->code;
  program.code_size = p->size;
  program.format = "mlir";
  program.format_size = 4;
  pj_client_compile compile;
  INIT(compile);
  compile.client = c->client;
  compile.program = &program;
  compile.options = options;
  compile.options_size = sizeof OPTIONS - 1 + (c->host_memory ? sizeof CPU_OPTIONS - 1 : 0);
  fenv_t kept;
  hold_traps(c, &kept);
  int status = call(c, PJ_CLIENT_COMPILE, &compile, SURROGATE_COMPILE, p->file);
  release_traps(c, &kept);
  if (status) return status;
  pj_loaded_get_executable inner;
  INIT(inner);
  inner.loaded = compile.executable;
  status = call(c, PJ_LOADED_GET_EXECUTABLE, &inner, SURROGATE_COMPILE, p->file);
  if (!status) {
    status = check_outputs(c, f, p, inner.executable);
    pj_on_executable on;
    INIT(on);
    on.executable = inner.executable;
    pj_error *error = ((pj_call *)entry(c, PJ_EXECUTABLE_DESTROY))(&on);
    if (error) check(c, error, SURROGATE_COMPILE, p->file);
  }
  if (status) {
    sg_pjrt.discard(c, compile.executable);
    return status;
  }
  *executable = compile.executable;
  return SURROGATE_OK;
}

static void pjrt_discard(void *opened, void *executable) {
  client *c = opened;
  if (!executable) return;
  pj_on_loaded on;
  INIT(on);
  on.executable = executable;
  pj_error *error = ((pj_call *)entry(c, PJ_LOADED_DESTROY))(&on);
  if (error) check(c, error, SURROGATE_EXECUTE, "a program cannot be released");
}

/* Room for the pointers to arguments, outputs and events of one call. */
static size_t pjrt_scratch_size(const sg_function *f) {
  return sizeof(void *) * (size_t)(f->num_parameters + 2 * f->num_inputs + 2 * f->num_outputs);
}

static int fetch(const client *c, const sg_argument *output, int64_t batch, pj_buffer *buffer, void *target,
                 pj_event **done) {
  int64_t order[SURROGATE_MAX_RANK + 1];
  int rank = output->described.rank + 1;
  for (int i = 0; i < rank; i++) order[i] = rank - 1 - i;
  pj_layout layout;
  INIT(layout);
  layout.type = PJ_LAYOUT_TILED;
  layout.of.tiled.struct_size = sizeof layout.of.tiled;
  layout.of.tiled.minor_to_major = order;
  layout.of.tiled.minor_to_major_size = (size_t)rank;
  pj_buffer_to_host to;
  INIT(to);
  to.source = buffer;
  to.host_layout = &layout;
  to.target = target;
  to.target_size = output->described.bytes * (size_t)batch;
  int status = call(c, PJ_BUFFER_TO_HOST, &to, SURROGATE_EXECUTE, output->described.name);
  *done = status ? NULL : to.done;
  return status;
}

static int pjrt_run(void *opened, const sg_function *f, const sg_program *p, const void *const *inputs,
                    void *const *outputs, void *scratch) {
  client *c = opened;
  pj_buffer **arguments = scratch, **given = arguments + f->num_parameters;
  pj_event **events = (pj_event **)(given + f->num_inputs);
  pj_buffer **results = (pj_buffer **)(events + f->num_inputs);
  pj_event **fetched = (pj_event **)(results + f->num_outputs);
  memset(scratch, 0, pjrt_scratch_size(f));
  for (int i = 0; i < f->num_parameters; i++) arguments[i] = f->parameter_buffers[i];
  fenv_t kept;
  hold_traps(c, &kept);
  int status = SURROGATE_OK;
  for (int i = 0; i < f->num_inputs && !status; i++) {
    const surrogate_argument *a = &f->inputs[i].described;
    int64_t shape[SURROGATE_MAX_RANK + 1] = {p->batch};
    memcpy(shape + 1, a->shape, (size_t)a->rank * sizeof *shape);
    bool aligned = (uintptr_t)inputs[i] % SG_ALIGNMENT == 0;
    int semantics = !c->host_memory ? PJ_UNTIL_TRANSFERRED : aligned ? PJ_ZERO_COPY : PJ_COPY_DURING_CALL;
    status = from_host(c, inputs[i], a->dtype, shape, a->rank + 1, semantics, &given[i], &events[i], a->name);
  }
  if (!status) {
    pj_execute_options options;
    INIT(options);
    pj_loaded_execute execute;
    INIT(execute);
    pj_buffer *const *const lists[] = {arguments};
    pj_buffer **const out[] = {results};
    execute.executable = p->executable;
    execute.options = &options;
    execute.arguments = lists;
    execute.num_devices = 1;
    execute.num_arguments = (size_t)(f->num_parameters + f->num_inputs);
    execute.outputs = out;
    execute.device = c->device;
    status = call(c, PJ_LOADED_EXECUTE, &execute, SURROGATE_EXECUTE, p->file);
    if (status) memset(results, 0, sizeof *results * (size_t)f->num_outputs);
  }
  /* An output may be the memory of an input that is read in place: nothing is written before all is computed. */
  for (int i = 0; i < f->num_outputs && !status; i++)
    status = fetch(c, &f->outputs[i], p->batch, results[i], outputs[i], &fetched[i]);
  for (int i = 0; i < f->num_outputs; i++) {
    int later = await(c, fetched[i], SURROGATE_EXECUTE, f->outputs[i].described.name);
    if (!status) status = later;
    destroy_buffer(c, results[i]);
  }
  for (int i = 0; i < f->num_inputs; i++) {
    destroy_buffer(c, given[i]);
    if (c->host_memory) drop_event(c, events[i]);
    else await(c, events[i], SURROGATE_EXECUTE, f->inputs[i].described.name); /* the caller's array is free again */
  }
  release_traps(c, &kept);
  return status;
}

const sg_backend sg_pjrt = {
    .name = "pjrt",
    .open = pjrt_open,
    .close = pjrt_close,
    .version = pjrt_version,
    .upload = pjrt_upload,
    .release = pjrt_release,
    .compile = pjrt_compile,
    .discard = pjrt_discard,
    .run = pjrt_run,
    .scratch_size = pjrt_scratch_size,
};
