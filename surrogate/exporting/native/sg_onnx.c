/* The ONNX Runtime backend: programs run by libonnxruntime, opened with dlopen, on a CPU.
 *
 * A program's inputs are "input/NAME" and its outputs "output/NAME", each of a fixed batch; its parameters are external
 * initializers under their own names, which are handed over from the Bundle's verified memory, so that no file is read
 * by the runtime. A call computes on one thread unless options.threads says otherwise. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "onnx_abi.h"
#include "sg_internal.h"

typedef struct client {
  struct client *next;
  char *plugin;
  int users;
  const ox_table *api;
  const char *version;
  ox_env *env;
  ox_memory *memory;
  ox_allocator *allocator;
  ox_run_options *run_options;
  sg_traps traps;
} client;

static pthread_mutex_t clients_lock = PTHREAD_MUTEX_INITIALIZER;
static client *clients;

#define CALL(c, which, type) ((type *)(c)->api->functions[which])

static void release(const client *c, ox_function which, void *object) {
  if (object) CALL(c, which, ox_release)(object);
}

/* Turn the runtime's error into ours. */
static int check(const client *c, ox_status *error, int status, const char *doing) {
  if (!error) return SURROGATE_OK;
  sg_fail(status, "%s: %.500s", doing, CALL(c, OX_ERROR_MESSAGE, ox_error_message)(error));
  release(c, OX_RELEASE_STATUS, error);
  return status;
}

/* -- opening --------------------------------------------------------------------------------- */

/* The table is only trusted after it did what it should. */
static bool table_works(const client *c) {
  static const char text[] = "surrogate";
  ox_status *made = CALL(c, OX_CREATE_STATUS, ox_create_status)(7, text);
  bool good = made && CALL(c, OX_ERROR_CODE, ox_error_code)(made) == 7 &&
              !strcmp(CALL(c, OX_ERROR_MESSAGE, ox_error_message)(made), text);
  release(c, OX_RELEASE_STATUS, made);
  return good;
}

static int load(client *c) {
  dlerror();
  void *library = dlopen(c->plugin, RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char *why = dlerror();
    return sg_fail(SURROGATE_PLUGIN, "ONNX Runtime cannot be loaded: %s", why ? why : c->plugin);
  }
  const ox_base *(*get)(void);
  *(void **)&get = dlsym(library, "OrtGetApiBase");
  if (!get) return sg_fail(SURROGATE_PLUGIN, "%s is not ONNX Runtime: it has no OrtGetApiBase", c->plugin);
  const ox_base *base = get();
  if (!base || !base->get || !base->version) return sg_fail(SURROGATE_PLUGIN, "%s gives no interface", c->plugin);
  c->version = base->version();
  /* 1.N offers the interfaces up to N and writes to the standard error when asked for one that it has not. */
  if (strncmp(c->version, "1.", 2) || atoi(c->version + 2) < OX_VERSION || !(c->api = base->get(OX_VERSION)))
    return sg_fail(SURROGATE_PLUGIN, "%s is ONNX Runtime %s; 1.%d or younger is needed", c->plugin, c->version, OX_VERSION);
  if (!table_works(c))
    return sg_fail(SURROGATE_PLUGIN, "%s, ONNX Runtime %s, has another interface than is expected", c->plugin, c->version);
  sg_find_traps(library, &c->traps);
  return SURROGATE_OK;
}

static int start(client *c) {
  static const char doing[] = "ONNX Runtime cannot start";
  ox_status *error = CALL(c, OX_CREATE_ENV, ox_create_env)(OX_LOG_FATAL, "surrogate", &c->env);
  if (!error) error = CALL(c, OX_DISABLE_TELEMETRY, ox_on_env)(c->env);
  if (!error)
    error = CALL(c, OX_CREATE_CPU_MEMORY, ox_create_memory)(OX_DEVICE_ALLOCATOR, OX_MEMORY_DEFAULT, &c->memory);
  if (!error) error = CALL(c, OX_DEFAULT_ALLOCATOR, ox_default_allocator)(&c->allocator);
  if (!error) error = CALL(c, OX_CREATE_RUN_OPTIONS, ox_create_run_options)(&c->run_options);
  return check(c, error, SURROGATE_PLUGIN, doing);
}

static void stop(client *c) {
  if (c->api) {
    release(c, OX_RELEASE_RUN_OPTIONS, c->run_options);
    release(c, OX_RELEASE_MEMORY, c->memory);
    release(c, OX_RELEASE_ENV, c->env);
  }
  free(c->plugin);
  free(c);
}

static int onnx_open(const char *plugin, const char *platform, const sg_settings *settings, void **result) {
  if (strcmp(platform, "cpu"))
    return sg_fail(SURROGATE_INVALID, "the backend onnx runs on cpu, not on %s", platform);
  if (settings->device) return sg_fail(SURROGATE_PLUGIN, "%s has one device, so there is no device %d", plugin, settings->device);
  int status = SURROGATE_OK;
  pthread_mutex_lock(&clients_lock);
  client *c = clients;
  while (c && strcmp(c->plugin, plugin)) c = c->next;
  if (c) {
    c->users++;
  } else if (!(c = calloc(1, sizeof *c)) || !(c->plugin = strdup(plugin))) {
    free(c);
    status = sg_fail(SURROGATE_MEMORY, "there is no memory");
  } else {
    fenv_t kept;
    status = load(c);
    sg_hold_traps(&c->traps, &kept); /* the runtime's threads inherit the state of this one */
    if (!status) status = start(c);
    sg_release_traps(&c->traps, &kept);
    if (status) {
      stop(c);
    } else {
      c->users = 1;
      c->next = clients;
      clients = c;
    }
  }
  pthread_mutex_unlock(&clients_lock);
  *result = status ? NULL : c;
  return status;
}

static void onnx_close(void *opened) {
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

static const char *onnx_version(void *opened) { return ((client *)opened)->version; }

/* Parameters are handed to each program when it is compiled. */
static int onnx_upload(void *opened, const sg_array *array, void **buffer) {
  (void)opened, (void)array;
  *buffer = NULL;
  return SURROGATE_OK;
}

static void onnx_release(void *opened, void *buffer) { (void)opened, (void)buffer; }

/* -- compiling ------------------------------------------------------------------------------- */

static int element_type(int dtype) { return dtype == SURROGATE_INT32 ? OX_INT32 : OX_FLOAT32; }

static ox_status *make_value(const client *c, const void *data, size_t bytes, const int64_t *shape, int rank, int dtype,
                             ox_value **value) {
  return CALL(c, OX_CREATE_TENSOR_WITH_DATA, ox_create_tensor)(c->memory, (void *)data, bytes, shape, (size_t)rank,
                                                               element_type(dtype), value);
}

/* "input/NAME" or "output/NAME" in `text`; false where it is too long. */
static bool full_name(const surrogate_argument *a, bool output, char text[256]) {
  int size = snprintf(text, 256, "%s/%s", output ? "output" : "input", a->name);
  return size > 0 && size < 256;
}

static int has_shape(const client *c, const sg_program *p, const surrogate_argument *a, const ox_type *type, bool *same) {
  const ox_tensor_type *tensor = NULL;
  int64_t dims[SURROGATE_MAX_RANK + 1];
  int element = 0;
  size_t rank = 0;
  *same = false;
  ox_status *error = CALL(c, OX_AS_TENSOR_TYPE, ox_as_tensor_type)(type, &tensor);
  if (error || !tensor) return check(c, error, SURROGATE_COMPILE, p->file);
  error = CALL(c, OX_ELEMENT_TYPE, ox_element_type)(tensor, &element);
  if (!error) error = CALL(c, OX_NUM_DIMENSIONS, ox_num_dimensions)(tensor, &rank);
  if (!error && (element != element_type(a->dtype) || rank != (size_t)a->rank + 1)) return SURROGATE_OK;
  if (!error) error = CALL(c, OX_DIMENSIONS, ox_dimensions)(tensor, dims, rank);
  if (error) return check(c, error, SURROGATE_COMPILE, p->file);
  *same = dims[0] == p->batch && !memcmp(dims + 1, a->shape, (size_t)a->rank * sizeof *dims);
  return SURROGATE_OK;
}

/* A program must take and write exactly the arrays that the manifest promises, in its order. */
static int check_arguments(const client *c, const sg_program *p, ox_session *session, bool output) {
  const sg_function *f = p->function;
  const size_t expected = (size_t)(output ? f->num_outputs : f->num_inputs);
  size_t count = 0;
  int status = check(c, CALL(c, output ? OX_OUTPUT_COUNT : OX_INPUT_COUNT, ox_count)(session, &count), SURROGATE_COMPILE,
                     p->file);
  if (!status && count != expected)
    return sg_fail(SURROGATE_BUNDLE, "%s has %zu %s, the manifest says %zu", p->file, count, output ? "outputs" : "inputs",
                   expected);
  for (size_t i = 0; i < count && !status; i++) {
    const surrogate_argument *a = output ? &f->outputs[i].described : &f->inputs[i].described;
    char *name = NULL, wanted[256];
    ox_type *type = NULL;
    bool same = false;
    ox_status *error = CALL(c, output ? OX_OUTPUT_NAME : OX_INPUT_NAME, ox_name_of)(session, i, c->allocator, &name);
    if (!error) error = CALL(c, output ? OX_OUTPUT_TYPE : OX_INPUT_TYPE, ox_type_of)(session, i, &type);
    status = check(c, error, SURROGATE_COMPILE, p->file);
    if (!status) status = has_shape(c, p, a, type, &same);
    if (!status && (!same || !full_name(a, output, wanted) || strcmp(name, wanted)))
      status = sg_fail(SURROGATE_BUNDLE, "%s: its %s '%s' is not of the manifest's name and shape", p->file,
                       output ? "output" : "input", a->name);
    release(c, OX_RELEASE_TYPE, type);
    if (name) check(c, CALL(c, OX_ALLOCATOR_FREE, ox_allocator_free)(c->allocator, name), SURROGATE_COMPILE, p->file);
  }
  return status;
}

static ox_status *configure(const client *c, ox_options *options, int threads) {
  ox_status *error = CALL(c, OX_SET_INTRA_THREADS, ox_set_option)(options, threads);
  if (!error) error = CALL(c, OX_SET_INTER_THREADS, ox_set_option)(options, 1);
  if (!error) error = CALL(c, OX_SET_EXECUTION_MODE, ox_set_option)(options, OX_SEQUENTIAL);
  if (!error) error = CALL(c, OX_SET_OPTIMIZATION, ox_set_option)(options, OX_OPTIMIZE_ALL);
  /* Threads that wait for work shall not take the cores from the simulation. */
  if (!error && threads > 1) error = CALL(c, OX_ADD_CONFIG, ox_add_config)(options, "session.intra_op.allow_spinning", "0");
  return error;
}

/* The parameters, viewed where they are; the runtime copies or packs them while the session is made. */
static int add_parameters(const client *c, const sg_program *p, ox_options *options, const char **names, ox_value **values,
                          int count) {
  ox_status *error = NULL;
  for (int i = 0; i < count && !error; i++) {
    const sg_array *a = p->parameters ? p->parameters[i] : p->function->parameters[i];
    names[i] = a->name;
    error = make_value(c, a->data, a->bytes, a->shape, a->rank, a->dtype, &values[i]);
  }
  if (!error && count)
    error = CALL(c, OX_ADD_EXTERNAL_INITIALIZERS, ox_add_external)(options, names, (const ox_value *const *)values,
                                                                   (size_t)count);
  return check(c, error, SURROGATE_COMPILE, p->file);
}

static void onnx_discard(void *opened, void *executable) { release(opened, OX_RELEASE_SESSION, executable); }

static int onnx_compile(void *opened, const sg_settings *settings, const sg_program *p, void **executable) {
  client *c = opened;
  const int count = p->parameters ? p->num_parameters : p->function->num_parameters;
  const char **names = calloc((size_t)count + 1, sizeof *names);
  ox_value **values = calloc((size_t)count + 1, sizeof *values);
  ox_options *options = NULL;
  ox_session *session = NULL;
  fenv_t kept;
  sg_hold_traps(&c->traps, &kept);
  int status = names && values ? SURROGATE_OK : sg_fail(SURROGATE_MEMORY, "there is no memory");
  if (settings->cache) sg_cache_note(settings->cache, "ONNX Runtime compiles nothing that would be worth keeping");
  if (!status) {
    ox_status *error = CALL(c, OX_CREATE_SESSION_OPTIONS, ox_create_options)(&options);
    if (!error) error = configure(c, options, settings->threads);
    status = check(c, error, SURROGATE_COMPILE, p->file);
  }
  if (!status) status = add_parameters(c, p, options, names, values, count);
  if (!status)
    status = check(c, CALL(c, OX_CREATE_SESSION_FROM_ARRAY, ox_create_session_from_array)(c->env, p->code, p->size, options, &session),
                   SURROGATE_COMPILE, p->file);
  if (!status) status = check_arguments(c, p, session, false);
  if (!status) status = check_arguments(c, p, session, true);
  release(c, OX_RELEASE_SESSION_OPTIONS, options);
  for (int i = 0; values && i < count; i++) release(c, OX_RELEASE_VALUE, values[i]);
  free(names);
  free(values);
  if (status) onnx_discard(c, session);
  else *executable = session;
  sg_release_traps(&c->traps, &kept);
  return status;
}

/* -- running --------------------------------------------------------------------------------- */

/* What a context keeps: arrays stay bound from call to call as long as they are the same. */
typedef struct binding {
  ox_binding *bound;
  const void **inputs, **outputs; /* the arrays that are bound */
  void **own;                     /* copies of inputs that an output overlaps */
} binding;

static void onnx_unbind(void *opened, const sg_program *p, void *kept) {
  binding *b = kept;
  release(opened, OX_RELEASE_BINDING, b->bound);
  for (int i = 0; i < p->function->num_inputs; i++) free(b->own[i]);
  free(b);
}

static int onnx_bind(void *opened, const sg_program *p, int *lane, void **result) {
  (void)lane; /* calls of several threads do not wait for one another */
  client *c = opened;
  size_t in = (size_t)p->function->num_inputs, out = (size_t)p->function->num_outputs;
  binding *b = calloc(1, sizeof *b + sizeof(void *) * (2 * in + out));
  if (!b) return sg_fail(SURROGATE_MEMORY, "there is no memory");
  b->inputs = (const void **)(b + 1);
  b->outputs = b->inputs + in;
  b->own = (void **)(b->outputs + out);
  int status = check(c, CALL(c, OX_CREATE_BINDING, ox_create_binding)(p->executable, &b->bound), SURROGATE_EXECUTE, p->file);
  if (status) onnx_unbind(c, p, b);
  else *result = b;
  return status;
}

static int attach(const client *c, const sg_program *p, binding *b, bool output, int i, const void *data) {
  const void **held = output ? &b->outputs[i] : &b->inputs[i];
  if (*held == data) return SURROGATE_OK;
  const surrogate_argument *a = output ? &p->function->outputs[i].described : &p->function->inputs[i].described;
  int64_t shape[SURROGATE_MAX_RANK + 1] = {p->batch};
  char name[256];
  ox_value *value = NULL;
  memcpy(shape + 1, a->shape, (size_t)a->rank * sizeof *shape);
  full_name(a, output, name);
  *held = NULL;
  ox_status *error = make_value(c, data, a->bytes * (size_t)p->batch, shape, a->rank + 1, a->dtype, &value);
  if (!error) error = CALL(c, output ? OX_BIND_OUTPUT : OX_BIND_INPUT, ox_bind)(b->bound, name, value);
  release(c, OX_RELEASE_VALUE, value); /* the binding holds it */
  int status = check(c, error, SURROGATE_EXECUTE, a->name);
  if (!status) *held = data;
  return status;
}

static bool overlaps(const sg_program *p, int input, const void *data, void *const *outputs) {
  const size_t batch = (size_t)p->batch, size = p->function->inputs[input].described.bytes * batch;
  const uintptr_t first = (uintptr_t)data;
  for (int i = 0; i < p->function->num_outputs; i++) {
    const uintptr_t other = (uintptr_t)outputs[i];
    if (first < other + p->function->outputs[i].described.bytes * batch && other < first + size) return true;
  }
  return false;
}

static int onnx_run(void *opened, const sg_program *p, void *kept, const void *const *inputs, void *const *outputs) {
  client *c = opened;
  binding *b = kept;
  const sg_function *f = p->function;
  int status = SURROGATE_OK;
  for (int i = 0; i < f->num_inputs && !status; i++) {
    const void *data = inputs[i];
    if (overlaps(p, i, data, outputs)) { /* an output may be written before all inputs were read */
      size_t bytes = f->inputs[i].described.bytes * (size_t)p->batch;
      if (!b->own[i] && !(b->own[i] = sg_allocate(bytes))) return sg_fail(SURROGATE_MEMORY, "there is no memory");
      data = memcpy(b->own[i], data, bytes);
    }
    status = attach(c, p, b, false, i, data);
  }
  for (int i = 0; i < f->num_outputs && !status; i++) status = attach(c, p, b, true, i, outputs[i]);
  if (status) return status;
  fenv_t traps;
  sg_hold_traps(&c->traps, &traps);
  status = check(c, CALL(c, OX_RUN_WITH_BINDING, ox_run)(p->executable, c->run_options, b->bound), SURROGATE_EXECUTE, p->file);
  sg_release_traps(&c->traps, &traps);
  return status;
}

const sg_backend sg_onnx = {
    .name = "onnx",
    .symbol = "OrtGetApiBase",
    .record = "runtimes",
    .variable = "SURROGATE_ONNXRUNTIME",
    .open = onnx_open,
    .close = onnx_close,
    .version = onnx_version,
    .upload = onnx_upload,
    .release = onnx_release,
    .compile = onnx_compile,
    .discard = onnx_discard,
    .bind = onnx_bind,
    .unbind = onnx_unbind,
    .run = onnx_run,
};
