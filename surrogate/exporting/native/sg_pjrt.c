/* The PJRT backend: programs compiled and run by a plugin that was opened with dlopen.
 *
 * One client of a plugin serves all Bundles of a process, since on an accelerator each client claims memory of its
 * own. A plugin is never unloaded: its threads and its runtime do not survive that.
 *
 * A CPU plugin computes the calls of one of its devices one after the other, whichever threads they come from. So its
 * client has a device for each CPU that this process may use, and contexts are spread over them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pjrt_abi.h"
#include "sg_internal.h"

#define MOST_DEVICES 256

typedef struct client {
  struct client *next;
  char *plugin, *platform;
  int device_index;
  int users;
  const pj_table *api;
  pj_client *client;
  pj_device *const *devices;
  int num_devices, bindings[MOST_DEVICES]; /* on each device; under clients_lock */
  bool host_memory; /* the device reads the caller's arrays in place */
  char version[24];
  sg_traps traps;
} client;

static pthread_mutex_t clients_lock = PTHREAD_MUTEX_INITIALIZER;
static client *clients;

#define INIT(args) (memset(&(args), 0, sizeof(args)), (args).struct_size = sizeof(args))

typedef void (*any_function)(void);

static any_function entry(const client *c, pj_function which) { return c->api->functions[which]; }

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
  sg_find_traps(library, &c->traps);
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

/* CPUs that this process may use, or what PJRT_NPROC asks for, which is also the plugin's number of threads. */
static int usable_cpus(void) {
  const char *asked = getenv("PJRT_NPROC");
  long count = asked ? strtol(asked, NULL, 10) : 0;
  cpu_set_t set;
  if (count <= 0 && !sched_getaffinity(0, sizeof set, &set)) count = CPU_COUNT(&set);
  if (count <= 0) count = sysconf(_SC_NPROCESSORS_ONLN);
  return count < 1 ? 1 : count > MOST_DEVICES ? MOST_DEVICES : (int)count;
}

static int start(client *c) {
  pj_plugin_initialize initialize;
  INIT(initialize);
  int status = call(c, PJ_PLUGIN_INITIALIZE, &initialize, SURROGATE_PLUGIN, "the plugin cannot be initialised");
  if (status) return status;
  pj_client_create create;
  INIT(create);
  /* By default a GPU client takes most of the memory of every GPU. */
  pj_named_value options[2];
  const int64_t visible = c->device_index;
  const bool spread = !strcmp(c->platform, "cpu");
  if (spread) {
    options[0] = option("cpu_device_count", PJ_VALUE_INT64);
    options[0].value.integer = usable_cpus();
    /* A call computes on the thread that makes it: handing it to another one costs two wake-ups. */
    options[1] = option("asynchronous", PJ_VALUE_BOOL);
    options[1].value.flag = false;
    create.num_options = 2;
  } else if (!strcmp(c->platform, "cuda") || !strcmp(c->platform, "rocm")) {
    options[0] = option("preallocate", PJ_VALUE_BOOL);
    options[0].value.flag = false;
    options[1] = option("visible_devices", PJ_VALUE_INT64_LIST);
    options[1].value.integers = &visible;
    create.num_options = 2;
  }
  create.options = options;
  status = call(c, PJ_CLIENT_CREATE, &create, SURROGATE_PLUGIN, "the plugin cannot start on this machine");
  if (status && spread) { /* older plugins know the first option alone */
    create.num_options = 1;
    status = call(c, PJ_CLIENT_CREATE, &create, SURROGATE_PLUGIN, "the plugin cannot start on this machine");
  }
  if (status) return status;
  c->client = create.client;
  pj_client_devices devices;
  INIT(devices);
  devices.client = c->client;
  status = call(c, PJ_CLIENT_ADDRESSABLE_DEVICES, &devices, SURROGATE_PLUGIN, "the plugin's devices");
  if (status) return status;
  size_t index = !spread && create.num_options == 2 ? 0 : (size_t)c->device_index, found = spread ? 1 : devices.num_devices;
  if (!devices.num_devices || index >= found)
    return sg_fail(SURROGATE_PLUGIN, "%s has %zu devices, so there is no device %d", c->plugin, found, c->device_index);
  c->devices = devices.devices + index;
  c->num_devices = !spread ? 1 : devices.num_devices > MOST_DEVICES ? MOST_DEVICES : (int)devices.num_devices;
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

static int pjrt_open(const char *plugin, const char *platform, const sg_settings *settings, void **result) {
  int status = SURROGATE_OK, device = settings->device;
  if (settings->threads > 1)
    return sg_fail(SURROGATE_INVALID, "surrogate_options.threads is %d, but of PJRT's threads the variable PJRT_NPROC decides",
                   settings->threads);
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
      sg_hold_traps(&c->traps, &kept); /* the plugin's threads inherit the state of this one */
      status = start(c);
      sg_release_traps(&c->traps, &kept);
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

static int from_host(const client *c, int device, const void *data, int dtype, const int64_t *shape, int rank,
                     int semantics, pj_buffer **buffer, pj_event **done, const char *doing) {
  pj_buffer_from_host from;
  INIT(from);
  from.client = c->client;
  from.data = data;
  from.type = dtype == SURROGATE_INT32 ? PJ_TYPE_S32 : PJ_TYPE_F32;
  from.dims = shape;
  from.num_dims = (size_t)rank;
  from.semantics = semantics;
  from.device = c->devices[device];
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

/* A parameter on the devices that a context was created for. */
typedef struct held {
  const sg_array *array;
  pj_buffer *on[];
} held;

static int pjrt_upload(void *opened, const sg_array *array, void **buffer) {
  const client *c = opened;
  held *h = calloc(1, sizeof *h + sizeof(pj_buffer *) * (size_t)c->num_devices);
  if (!h) return sg_fail(SURROGATE_MEMORY, "there is no memory");
  h->array = array;
  *buffer = h;
  return SURROGATE_OK;
}

/* Under clients_lock. */
static int on_device(const client *c, held *h, int device, pj_buffer **buffer) {
  if (!h->on[device]) {
    const sg_array *a = h->array;
    pj_event *done = NULL;
    int semantics = c->host_memory ? PJ_ZERO_COPY : PJ_UNTIL_TRANSFERRED;
    int status = from_host(c, device, a->data, a->dtype, a->shape, a->rank, semantics, &h->on[device], &done, a->name);
    /* Of an array used in place the event comes when the buffer is released, so it is not waited for. */
    if (c->host_memory) drop_event(c, done);
    else if (!status) status = await(c, done, SURROGATE_EXECUTE, a->name);
    if (status) return status;
  }
  *buffer = h->on[device];
  return SURROGATE_OK;
}

static void pjrt_release(void *opened, void *buffer) {
  const client *c = opened;
  held *h = buffer;
  if (!h) return;
  for (int i = 0; i < c->num_devices; i++) destroy_buffer(c, h->on[i]);
  free(h);
}

/* CompileOptionsProto, by hand: executable_build_options (3) = {device_ordinal (1): -1, num_replicas (4): 1,
 * num_partitions (5): 1}, compile_portable_executable (4): true, and on a CPU env_option_overrides (7):
 * {"xla_cpu_multi_thread_eigen": bool_field (2) false}. Without the last, several calling threads and a
 * Fourier transform have been seen to wait for one another for ever. */
#define EIGEN "xla_cpu_multi_thread_eigen"
static const char OPTIONS[] = "\x1a\x0f\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x20\x01\x28\x01"
                              "\x20\x01";
static const char CPU_OPTIONS[] = "\x3a\x20\x0a\x1a" EIGEN "\x12\x02\x10\x00";

/* A program must write exactly the arrays that the manifest promises, or memory would be overrun or left as it was. */
static int check_outputs(const client *c, const sg_program *p, pj_executable *executable) {
  const sg_function *f = p->function;
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

static int inner_of(const client *c, const sg_program *p, pj_loaded *loaded, pj_executable **executable) {
  pj_loaded_get_executable inner;
  INIT(inner);
  inner.loaded = loaded;
  int status = call(c, PJ_LOADED_GET_EXECUTABLE, &inner, SURROGATE_COMPILE, p->file);
  *executable = status ? NULL : inner.executable;
  return status;
}

static void drop_inner(const client *c, const sg_program *p, pj_executable *executable) {
  if (!executable) return;
  pj_on_executable on;
  INIT(on);
  on.executable = executable;
  pj_error *error = ((pj_call *)entry(c, PJ_EXECUTABLE_DESTROY))(&on);
  if (error) check(c, error, SURROGATE_COMPILE, p->file);
}

/* A program that an earlier process compiled; NULL where there is none that this plugin accepts. */
static pj_loaded *from_cache(const client *c, const sg_program *p, sg_cache *cache, const char *key) {
  pj_deserialize_and_load load;
  INIT(load);
  void *bytes = sg_cache_get(cache, key, &load.size);
  if (!bytes) return NULL;
  load.client = c->client;
  load.bytes = bytes;
  int status = call(c, PJ_DESERIALIZE_AND_LOAD, &load, SURROGATE_COMPILE, p->file);
  free(bytes);
  if (!status) return load.executable;
  sg_cache_note(cache, "the plugin cannot read what it stored: %s", surrogate_last_error());
  return NULL;
}

static void to_cache(const client *c, const sg_program *p, pj_executable *executable, sg_cache *cache, const char *key) {
  pj_executable_serialize serialize;
  INIT(serialize);
  serialize.executable = executable;
  if (call(c, PJ_EXECUTABLE_SERIALIZE, &serialize, SURROGATE_COMPILE, p->file)) {
    sg_cache_note(cache, "the plugin cannot store programs: %s", surrogate_last_error());
    return;
  }
  sg_cache_put(cache, key, serialize.bytes, serialize.size);
  if (serialize.release) serialize.release(serialize.serialized);
}

static int pjrt_compile(void *opened, const sg_settings *settings, const sg_program *p, void **executable) {
  client *c = opened;
  sg_cache *cache = settings->cache;
  char options[sizeof OPTIONS + sizeof CPU_OPTIONS], key[65];
  size_t options_size = sizeof OPTIONS - 1 + (c->host_memory ? sizeof CPU_OPTIONS - 1 : 0);
  memcpy(options, OPTIONS, sizeof OPTIONS - 1);
  memcpy(options + sizeof OPTIONS - 1, CPU_OPTIONS, sizeof CPU_OPTIONS - 1);
  if (cache && sg_cache_key(cache, c->plugin, c->version, options, options_size, p->code, p->size, key)) cache = NULL;
  fenv_t kept;
  sg_hold_traps(&c->traps, &kept);
  int status = SURROGATE_OK;
  pj_loaded *loaded = cache ? from_cache(c, p, cache, key) : NULL;
  bool found = loaded != NULL;
  if (!found) {
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
    compile.options_size = options_size;
    status = call(c, PJ_CLIENT_COMPILE, &compile, SURROGATE_COMPILE, p->file);
    loaded = status ? NULL : compile.executable;
  }
  pj_executable *inner = NULL;
  if (!status) status = inner_of(c, p, loaded, &inner);
  if (!status) status = check_outputs(c, p, inner);
  if (!status && cache && !found) to_cache(c, p, inner, cache, key);
  drop_inner(c, p, inner);
  if (status) sg_pjrt.discard(c, loaded);
  else *executable = loaded;
  sg_release_traps(&c->traps, &kept);
  return status;
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

/* What a context keeps. On a CPU a buffer is a view of the caller's array, or of an aligned array of ours where that is
 * not aligned, and serves again as long as it is called with the same one. */
typedef struct binding {
  pj_buffer **arguments; /* the parameters, then the inputs */
  const void **viewed;   /* of inputs: the array that its buffer is a view of */
  void **own;            /* of inputs: our aligned array */
  pj_event **sent, **fetched;
  pj_buffer **results;
  int device;
} binding;

static void pjrt_unbind(void *opened, const sg_program *p, void *bound) {
  client *c = opened;
  binding *b = bound;
  for (int i = 0; i < p->function->num_inputs; i++) {
    destroy_buffer(c, b->arguments[p->function->num_parameters + i]);
    free(b->own[i]);
  }
  pthread_mutex_lock(&clients_lock);
  c->bindings[b->device]--;
  pthread_mutex_unlock(&clients_lock);
  free(b);
}

static int pjrt_bind(void *opened, const sg_program *p, int *lane, void **result) {
  client *c = opened;
  const sg_function *f = p->function;
  size_t in = (size_t)f->num_inputs, out = (size_t)f->num_outputs, parameters = (size_t)f->num_parameters;
  binding *b = calloc(1, sizeof *b + sizeof(void *) * (parameters + 4 * in + 2 * out));
  if (!b) return sg_fail(SURROGATE_MEMORY, "there is no memory");
  b->arguments = (pj_buffer **)(b + 1);
  b->viewed = (const void **)(b->arguments + parameters + in);
  b->own = (void **)(b->viewed + in);
  b->sent = (pj_event **)(b->own + in);
  b->results = (pj_buffer **)(b->sent + in);
  b->fetched = (pj_event **)(b->results + out);
  int status = SURROGATE_OK;
  fenv_t kept;
  sg_hold_traps(&c->traps, &kept);
  pthread_mutex_lock(&clients_lock);
  for (int i = 0; i < c->num_devices && *lane < 0; i++)
    if (c->bindings[i] < c->bindings[b->device]) b->device = i;
  if (*lane < 0) *lane = b->device;
  c->bindings[b->device = *lane]++;
  for (size_t i = 0; i < parameters && !status; i++)
    status = on_device(c, f->parameter_buffers[i], b->device, &b->arguments[i]);
  pthread_mutex_unlock(&clients_lock);
  sg_release_traps(&c->traps, &kept);
  if (status) pjrt_unbind(opened, p, b);
  else *result = b;
  return status;
}

/* Where the memory of a buffer lies; NULL where the plugin does not say. */
static const void *memory_of(const client *c, pj_buffer *buffer) {
  pj_buffer_unsafe_pointer where;
  INIT(where);
  where.buffer = buffer;
  pj_error *error = ((pj_call *)entry(c, PJ_BUFFER_UNSAFE_POINTER))(&where);
  if (!error) return (const void *)where.pointer;
  check(c, error, SURROGATE_EXECUTE, "a buffer's memory");
  return NULL;
}

static int give(const client *c, const sg_program *p, binding *b, int i, const void *data) {
  const surrogate_argument *a = &p->function->inputs[i].described;
  size_t bytes = a->bytes * (size_t)p->batch;
  if (c->host_memory && (uintptr_t)data % SG_ALIGNMENT) {
    if (!b->own[i] && !(b->own[i] = sg_allocate(bytes))) return sg_fail(SURROGATE_MEMORY, "there is no memory");
    data = memcpy(b->own[i], data, bytes);
  }
  if (b->viewed[i] == data) return SURROGATE_OK;
  pj_buffer **buffer = &b->arguments[p->function->num_parameters + i];
  destroy_buffer(c, *buffer);
  *buffer = NULL;
  b->viewed[i] = NULL;
  int64_t shape[SURROGATE_MAX_RANK + 1] = {p->batch};
  memcpy(shape + 1, a->shape, (size_t)a->rank * sizeof *shape);
  int semantics = c->host_memory ? PJ_ZERO_COPY : PJ_UNTIL_TRANSFERRED;
  int status = from_host(c, b->device, data, a->dtype, shape, a->rank + 1, semantics, buffer, &b->sent[i], a->name);
  if (!c->host_memory || status) return status;
  drop_event(c, b->sent[i]); /* it comes when the buffer is released */
  b->sent[i] = NULL;
  if (memory_of(c, *buffer) == data) b->viewed[i] = data; /* else it is a copy, good for one call */
  return SURROGATE_OK;
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

/* Wait for all outputs, then copy them. An output may be the memory of an input that is read in place, so nothing is
 * written before all is computed. */
static int take(const client *c, const sg_program *p, binding *b, pj_event *complete, void *const *outputs) {
  const sg_function *f = p->function;
  int status = await(c, complete, SURROGATE_EXECUTE, p->file);
  for (int i = 0; i < f->num_outputs && !status; i++) {
    const void *memory = c->host_memory ? memory_of(c, b->results[i]) : NULL;
    if (memory) memcpy(outputs[i], memory, f->outputs[i].described.bytes * (size_t)p->batch);
    else status = fetch(c, &f->outputs[i], p->batch, b->results[i], outputs[i], &b->fetched[i]);
  }
  for (int i = 0; i < f->num_outputs; i++) {
    int later = await(c, b->fetched[i], SURROGATE_EXECUTE, f->outputs[i].described.name);
    if (!status) status = later;
    destroy_buffer(c, b->results[i]);
    b->fetched[i] = NULL;
    b->results[i] = NULL;
  }
  return status;
}

static int pjrt_run(void *opened, const sg_program *p, void *bound, const void *const *inputs, void *const *outputs) {
  client *c = opened;
  binding *b = bound;
  const sg_function *f = p->function;
  fenv_t kept;
  sg_hold_traps(&c->traps, &kept);
  int status = SURROGATE_OK;
  for (int i = 0; i < f->num_inputs && !status; i++) status = give(c, p, b, i, inputs[i]);
  if (!status) {
    pj_execute_options options;
    INIT(options);
    pj_loaded_execute execute;
    INIT(execute);
    pj_buffer *const *const lists[] = {b->arguments};
    pj_buffer **const out[] = {b->results};
    pj_event *complete[] = {NULL};
    execute.executable = p->executable;
    execute.options = &options;
    execute.arguments = lists;
    execute.num_devices = 1;
    execute.num_arguments = (size_t)(f->num_parameters + f->num_inputs);
    execute.outputs = out;
    execute.complete = complete;
    execute.device = c->devices[b->device];
    status = call(c, PJ_LOADED_EXECUTE, &execute, SURROGATE_EXECUTE, p->file);
    if (status) memset(b->results, 0, sizeof *b->results * (size_t)f->num_outputs);
    else status = take(c, p, b, complete[0], outputs);
  }
  for (int i = 0; i < f->num_inputs && !c->host_memory; i++) { /* the caller's array is free again */
    int later = await(c, b->sent[i], SURROGATE_EXECUTE, f->inputs[i].described.name);
    if (!status) status = later;
    b->sent[i] = NULL;
  }
  sg_release_traps(&c->traps, &kept);
  return status;
}

const sg_backend sg_pjrt = {
    .name = "pjrt",
    .symbol = "GetPjrtApi",
    .record = "plugins",
    .open = pjrt_open,
    .close = pjrt_close,
    .version = pjrt_version,
    .upload = pjrt_upload,
    .release = pjrt_release,
    .compile = pjrt_compile,
    .discard = pjrt_discard,
    .bind = pjrt_bind,
    .unbind = pjrt_unbind,
    .run = pjrt_run,
};
