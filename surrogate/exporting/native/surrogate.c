/* The interface of libsurrogate: opening, describing, checking, running. Its reference is surrogate.h. */
#define _POSIX_C_SOURCE 200809L
#include "surrogate.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sg_internal.h"

struct surrogate_model {
  sg_bundle bundle;
  const sg_backend *backend;
  sg_settings settings;
  void *client;
  char *plugin, *platform;
  bool self_test;
  void **buffers; /* of the parameters, by their place in the bundle */
  _Atomic int contexts;
};

struct surrogate_context {
  surrogate_model *model;
  sg_function *function;
  sg_program *fixed;
  int64_t room;        /* samples that the padding arrays hold */
  void **in, **out;    /* padding arrays, one per argument */
  const void **source; /* what one batch reads and writes */
  void **target;
  void **bindings; /* what the backend keeps for each program */
  int lane;        /* which of the backend's queues its calls wait in; below 0 before the first */
  void *guard;     /* room of the guard */
};

/* -- errors ---------------------------------------------------------------------------------- */

static _Thread_local char sentence[SG_SENTENCE];

int sg_fail(int status, const char *format, ...) {
  char fresh[sizeof sentence]; /* the arguments may point into the old sentence */
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(fresh, sizeof fresh, format, arguments);
  va_end(arguments);
  memcpy(sentence, fresh, sizeof sentence);
  return status;
}

const char *surrogate_last_error(void) { return sentence; }

int surrogate_abi_version(void) { return SURROGATE_ABI_VERSION; }

void *sg_allocate(size_t bytes) {
  void *memory = NULL;
  size_t whole = (bytes + SG_ALIGNMENT) / SG_ALIGNMENT * SG_ALIGNMENT;
  if (whole < bytes || posix_memalign(&memory, SG_ALIGNMENT, whole)) return NULL;
  return memset(memory, 0, whole);
}

/* -- opening --------------------------------------------------------------------------------- */

static void destroy(surrogate_model *model) {
  sg_bundle *b = &model->bundle;
  for (int k = 0; k < b->num_functions; k++)
    for (int i = 0; i < b->functions[k].num_programs; i++)
      if (model->client) model->backend->discard(model->client, b->functions[k].programs[i].executable);
  for (int i = 0; model->buffers && i < b->num_parameters; i++)
    if (model->buffers[i]) model->backend->release(model->client, model->buffers[i]);
  if (model->client) model->backend->close(model->client);
  sg_cache_close(model->settings.cache);
  free(model->buffers);
  free(model->plugin);
  free(model->platform);
  sg_bundle_free(b);
  free(model);
}

static int upload(surrogate_model *model) {
  sg_bundle *b = &model->bundle;
  if (!(model->buffers = calloc((size_t)b->num_parameters + 1, sizeof *model->buffers)))
    return sg_fail(SURROGATE_MEMORY, "there is no memory");
  for (int i = 0; i < b->num_parameters; i++) {
    int status = model->backend->upload(model->client, &b->parameters[i], &model->buffers[i]);
    if (status) return status;
  }
  for (int k = 0; k < b->num_functions; k++)
    for (int i = 0; i < b->functions[k].num_parameters; i++)
      b->functions[k].parameter_buffers[i] = model->buffers[b->functions[k].parameters[i] - b->parameters];
  return SURROGATE_OK;
}

static int prepare(surrogate_model *model, sg_function *f, sg_program *p);

int surrogate_open(int abi_version, const char *directory, const surrogate_options *given, surrogate_model **result) {
  surrogate_options options = {.struct_size = sizeof options};
  if (result) *result = NULL;
  if (abi_version != SURROGATE_ABI_VERSION)
    return sg_fail(SURROGATE_ABI, "the caller was compiled against ABI %d of surrogate.h, this libsurrogate has %d",
                   abi_version, SURROGATE_ABI_VERSION);
  if (!directory || !result) return sg_fail(SURROGATE_INVALID, "surrogate_open needs a directory and a result");
  if (given) {
    if (given->struct_size < offsetof(surrogate_options, platform) || given->struct_size > 4096)
      return sg_fail(SURROGATE_ABI, "surrogate_options.struct_size is %zu, expected %zu", given->struct_size,
                     sizeof options);
    /* A younger caller's further options must be unset, or they would be ignored in silence. */
    for (size_t i = sizeof options; i < given->struct_size; i++)
      if (((const char *)given)[i])
        return sg_fail(SURROGATE_ABI, "surrogate_options holds options that this libsurrogate does not know");
    memcpy(&options, given, given->struct_size < sizeof options ? given->struct_size : sizeof options);
  }
  if (options.device < 0) return sg_fail(SURROGATE_INVALID, "surrogate_options.device is %d", options.device);
  if (options.threads < 0) return sg_fail(SURROGATE_INVALID, "surrogate_options.threads is %d", options.threads);
  surrogate_model *model = calloc(1, sizeof *model);
  if (!model) return sg_fail(SURROGATE_MEMORY, "there is no memory");
  int status = SURROGATE_OK, backend = 0;
  model->settings = (sg_settings){options.device, options.threads ? options.threads : 1, NULL};
  model->self_test = !options.skip_self_test;
  model->platform = strdup(options.platform && *options.platform ? options.platform : "cpu");
  if (!model->platform) status = sg_fail(SURROGATE_MEMORY, "there is no memory");
  if (!status) status = sg_bundle_read(directory, model->platform, &model->bundle);
  if (!status) status = sg_choose_backend(&model->bundle, model->platform, options.backend, options.plugin, &backend);
  if (!status) model->backend = sg_backends[backend];
  if (!status) status = sg_bundle_choose(&model->bundle, backend, model->platform);
  if (!status)
    status = sg_find_plugin(&model->bundle, model->backend, model->platform, options.plugin, &model->plugin);
  if (!status) status = sg_cache_open(options.cache, &model->settings.cache);
  if (!status) status = model->backend->open(model->plugin, model->platform, &model->settings, &model->client);
  if (!status) status = upload(model);
  /* Of a ladder of capacities the first; systems may never need the others. */
  const int eager = sg_json_get(model->bundle.manifest, "atoms") ? 1 : model->bundle.num_functions;
  for (int k = 0; !status && !options.lazy && k < eager; k++)
    status = prepare(model, &model->bundle.functions[k], &model->bundle.functions[k].programs[0]);
  if (status) {
    destroy(model);
    return status;
  }
  *result = model;
  return SURROGATE_OK;
}

int surrogate_close(surrogate_model *model) {
  if (!model) return SURROGATE_OK;
  if (model->contexts)
    return sg_fail(SURROGATE_INVALID, "%s is in use by %d contexts: destroy them first", model->bundle.directory,
                   (int)model->contexts);
  destroy(model);
  return SURROGATE_OK;
}

/* -- describing ------------------------------------------------------------------------------ */

static sg_function *find_function(const surrogate_model *model, const char *name) {
  for (int k = 0; model && name && k < model->bundle.num_functions; k++)
    if (!strcmp(model->bundle.functions[k].name, name)) return &model->bundle.functions[k];
  return NULL;
}

static int no_function(const surrogate_model *model, const char *name) {
  if (!model) return sg_fail(SURROGATE_INVALID, "the surrogate is NULL");
  return sg_fail(SURROGATE_INVALID, "%s has no function '%s'; its first is '%s'", model->bundle.directory,
                 name ? name : "NULL", model->bundle.functions[0].name);
}

const sg_bundle *sg_bundle_of(const surrogate_model *model) { return &model->bundle; }

int surrogate_num_functions(const surrogate_model *model) { return model ? model->bundle.num_functions : 0; }

const char *surrogate_function_name(const surrogate_model *model, int index) {
  return model && index >= 0 && index < model->bundle.num_functions ? model->bundle.functions[index].name : NULL;
}

const char *surrogate_info(const surrogate_model *model, const char *key) {
  static const char *const facts[] = {"name", "time_step", "calendar", "missing", "digest"};
  if (!model || !key) return NULL;
  if (!strcmp(key, "platform")) return model->platform;
  if (!strcmp(key, "backend")) return model->backend->name;
  if (!strcmp(key, "cache")) return sg_cache_report(model->settings.cache);
  if (!strcmp(key, "plugin")) return model->plugin;
  if (!strcmp(key, "plugin_version")) return model->backend->version(model->client);
  for (size_t i = 0; i < sizeof facts / sizeof *facts; i++) {
    const sg_json *v = strcmp(key, facts[i]) ? NULL : sg_json_get(model->bundle.manifest, key);
    if (v && v->kind == SG_STRING) return v->text;
  }
  return NULL;
}

int surrogate_coordinate(const surrogate_model *model, const char *name, const double **values, int *count) {
  int which = !name ? -1 : !strcmp(name, "latitude") ? 0 : !strcmp(name, "longitude") ? 1 : -1;
  if (values) *values = NULL;
  if (count) *count = 0;
  if (!model || !values || !count) return sg_fail(SURROGATE_INVALID, "surrogate_coordinate was given a NULL");
  if (which < 0 || !model->bundle.coordinates[which])
    return sg_fail(SURROGATE_INVALID, "%s has no coordinate '%s'", model->bundle.directory, name ? name : "NULL");
  *values = model->bundle.coordinates[which];
  *count = model->bundle.num_coordinates[which];
  return SURROGATE_OK;
}

static sg_argument *arguments_of(sg_function *f, int direction, int *count) {
  *count = direction == SURROGATE_INPUT ? f->num_inputs : direction == SURROGATE_OUTPUT ? f->num_outputs : 0;
  return direction == SURROGATE_INPUT ? f->inputs : f->outputs;
}

int surrogate_num_arguments(const surrogate_model *model, const char *function, int direction) {
  sg_function *f = find_function(model, function);
  int count = 0;
  if (!f || (direction != SURROGATE_INPUT && direction != SURROGATE_OUTPUT)) {
    no_function(model, function);
    return -1;
  }
  arguments_of(f, direction, &count);
  return count;
}

int surrogate_describe(const surrogate_model *model, const char *function, int direction, int index,
                       surrogate_argument *result) {
  sg_function *f = find_function(model, function);
  if (!f) return no_function(model, function);
  if (!result || result->struct_size < offsetof(surrogate_argument, role) || result->struct_size > 4096)
    return sg_fail(SURROGATE_INVALID, "surrogate_describe needs a result whose struct_size is set");
  int count = 0;
  sg_argument *all = arguments_of(f, direction, &count);
  if (index < 0 || index >= count)
    return sg_fail(SURROGATE_INVALID, "%s has %d arguments of direction %d, so none at %d", f->name, count, direction, index);
  size_t size = result->struct_size;
  memset(result, 0, size);
  memcpy(result, &all[index].described, size < sizeof *result ? size : sizeof *result);
  result->struct_size = size;
  return SURROGATE_OK;
}

int surrogate_find(const surrogate_model *model, const char *function, int direction, const char *name) {
  sg_function *f = find_function(model, function);
  if (!f) {
    no_function(model, function);
    return -1;
  }
  int count = 0;
  sg_argument *all = arguments_of(f, direction, &count);
  for (int i = 0; name && i < count; i++)
    if (!strcmp(all[i].described.name, name)) return i;
  sg_fail(SURROGATE_INVALID, "%s has no %s '%s'; its first is '%s'", f->name,
          direction == SURROGATE_INPUT ? "input" : "output", name ? name : "NULL", count ? all[0].described.name : "");
  return -1;
}

int surrogate_batches(const surrogate_model *model, const char *function, int64_t *sizes, int capacity) {
  sg_function *f = find_function(model, function);
  if (!f) {
    no_function(model, function);
    return -1;
  }
  for (int i = 0; sizes && i < f->num_programs && i < capacity; i++) sizes[i] = f->programs[i].batch;
  return f->num_programs;
}

/* -- checking -------------------------------------------------------------------------------- */

/* The difference of a batch from the golden samples, which it repeats: the one nearest to or furthest over its limit. */
static int compare(const surrogate_model *model, const sg_function *f, sg_program *p, int index, const float *got) {
  const sg_argument *a = &f->outputs[index];
  const int64_t size = (int64_t)(a->described.bytes / sizeof(float));
  double worst = -1, difference = 0, allowed = a->tolerance[0];
  int64_t place = 0;
  for (int64_t row = 0; row < p->batch; row++) {
    const float *expected = (const float *)a->golden->data + row % f->golden_samples * size;
    for (int64_t i = 0; i < size; i++) {
      double limit = a->tolerance[i / a->block % a->num_tolerance], x = expected[i], y = got[row * size + i];
      double d = x == y || (x != x && y != y) ? 0 : x > y ? x - y : y - x;
      if (d != d) d = 1e300; /* one of them is not a number */
      if (d / limit <= worst) continue;
      worst = d / limit, difference = d, allowed = limit, place = row * size + i;
    }
  }
  p->difference[index] = difference;
  p->allowed[index] = allowed;
  if (worst <= 1) return SURROGATE_OK;
  int64_t row = place / size, i = place % size;
  return sg_fail(SURROGATE_SELF_TEST,
                 "%s: with %s, %s computes output '%s' wrongly on this machine: element %lld of sample %lld is %.9g %s "
                 "instead of %.9g, where a difference of %.3g is allowed",
                 model->bundle.directory, model->plugin, p->file, a->described.name, (long long)i, (long long)row,
                 got[place], a->described.units, ((const float *)a->golden->data)[row % f->golden_samples * size + i],
                 allowed);
}

static int test(surrogate_model *model, sg_function *f, sg_program *p) {
  const size_t slots = (size_t)(f->num_inputs + f->num_outputs);
  void **arrays = calloc(slots, sizeof *arrays), *binding = NULL;
  int status = arrays ? SURROGATE_OK : sg_fail(SURROGATE_MEMORY, "there is no memory");
  for (size_t k = 0; k < slots && !status; k++) {
    bool input = k < (size_t)f->num_inputs;
    const sg_argument *a = input ? &f->inputs[k] : &f->outputs[k - (size_t)f->num_inputs];
    char *array = arrays[k] = sg_allocate(a->described.bytes * (size_t)p->batch);
    if (!array) status = sg_fail(SURROGATE_MEMORY, "there is no memory");
    for (int64_t row = 0; input && array && row < p->batch; row++)
      memcpy(array + (size_t)row * a->described.bytes,
             a->golden->data + (size_t)(row % f->golden_samples) * a->described.bytes, a->described.bytes);
  }
  int lane = -1;
  if (!status) status = model->backend->bind(model->client, p, &lane, &binding);
  if (!status)
    status = model->backend->run(model->client, p, binding, (const void *const *)arrays, arrays + f->num_inputs);
  if (binding) model->backend->unbind(model->client, p, binding);
  for (int i = 0; i < f->num_outputs && !status; i++) status = compare(model, f, p, i, arrays[f->num_inputs + i]);
  for (size_t k = 0; arrays && k < slots; k++) free(arrays[k]);
  free(arrays);
  return status;
}

static int prepare(surrogate_model *model, sg_function *f, sg_program *p) {
  if (p->state == SG_READY) return SURROGATE_OK;
  pthread_mutex_lock(&p->lock);
  int status = p->state == SG_REFUSED ? sg_fail(p->refusal, "%s", p->sentence) : SURROGATE_OK;
  if (p->state == SG_UNPREPARED) {
    status = model->backend->compile(model->client, &model->settings, p, &p->executable);
    if (!status && model->self_test) status = test(model, f, p);
    if (status) {
      p->refusal = status;
      memcpy(p->sentence, sentence, sizeof sentence);
    }
    p->state = status ? SG_REFUSED : SG_READY;
  }
  pthread_mutex_unlock(&p->lock);
  return status;
}

int surrogate_self_test(const surrogate_model *model, const char *function, int64_t batch, int output, double *difference,
                        double *tolerance) {
  sg_function *f = find_function(model, function);
  if (!f) return no_function(model, function);
  for (int i = 0; i < f->num_programs; i++) {
    const sg_program *p = &f->programs[i];
    if (p->batch != batch) continue;
    if (output < 0 || output >= f->num_outputs || !difference || !tolerance || p->state != SG_READY || !model->self_test)
      return sg_fail(SURROGATE_INVALID, "%s, batch %lld: there is no such output, or it was not checked", f->name,
                     (long long)batch);
    *difference = p->difference[output];
    *tolerance = p->allowed[output];
    return SURROGATE_OK;
  }
  return sg_fail(SURROGATE_INVALID, "%s has no program of batch %lld", f->name, (long long)batch);
}

/* -- running --------------------------------------------------------------------------------- */

/* The program for what is left: the largest that is filled, or the next larger if that is filled by more than half. */
static sg_program *choose(const sg_function *f, int64_t left) {
  int i = f->num_programs - 1;
  while (i > 0 && f->programs[i].batch > left) i--;
  if (i + 1 < f->num_programs && left * 2 > f->programs[i + 1].batch) i++;
  return &f->programs[i];
}

int surrogate_prepare(surrogate_model *model, const char *function, int64_t samples) {
  sg_function *f = find_function(model, function);
  if (!f) return no_function(model, function);
  if (samples < 0) return sg_fail(SURROGATE_INVALID, "%s: %lld samples", f->name, (long long)samples);
  while (samples > 0) {
    sg_program *p = choose(f, samples);
    int status = prepare(model, f, p);
    if (status) return status;
    samples = samples > p->batch ? samples % p->batch : 0;
  }
  return SURROGATE_OK;
}

static void free_padding(surrogate_context *c) {
  for (int i = 0; c->in && i < c->function->num_inputs; i++) free(c->in[i]), c->in[i] = NULL;
  for (int i = 0; c->out && i < c->function->num_outputs; i++) free(c->out[i]), c->out[i] = NULL;
  c->room = 0;
}

int surrogate_context_destroy(surrogate_context *c) {
  if (!c) return SURROGATE_OK;
  free_padding(c);
  free(c->in);
  free(c->out);
  free(c->source);
  free(c->target);
  for (int i = 0; c->bindings && i < c->function->num_programs; i++)
    if (c->bindings[i]) c->model->backend->unbind(c->model->client, &c->function->programs[i], c->bindings[i]);
  free(c->bindings);
  free(c->guard);
  c->model->contexts--;
  free(c);
  return SURROGATE_OK;
}

int surrogate_context_create(surrogate_model *model, const char *function, int64_t batch, surrogate_context **result) {
  if (result) *result = NULL;
  sg_function *f = find_function(model, function);
  if (!f) return no_function(model, function);
  if (!result) return sg_fail(SURROGATE_INVALID, "surrogate_context_create needs a result");
  sg_program *fixed = NULL;
  for (int i = 0; i < f->num_programs; i++)
    if (f->programs[i].batch == batch) fixed = &f->programs[i];
  if (batch && !fixed)
    return sg_fail(SURROGATE_INVALID, "%s has no program of batch %lld; see surrogate_batches", f->name, (long long)batch);
  int status = prepare(model, f, fixed ? fixed : &f->programs[0]);
  if (status) return status;
  surrogate_context *c = calloc(1, sizeof *c);
  if (!c) return sg_fail(SURROGATE_MEMORY, "there is no memory");
  c->model = model;
  model->contexts++;
  c->function = f;
  c->lane = -1;
  c->fixed = fixed;
  c->in = calloc((size_t)f->num_inputs, sizeof *c->in);
  c->out = calloc((size_t)f->num_outputs, sizeof *c->out);
  c->source = calloc((size_t)f->num_inputs, sizeof *c->source);
  c->target = calloc((size_t)f->num_outputs, sizeof *c->target);
  c->bindings = calloc((size_t)f->num_programs, sizeof *c->bindings);
  c->guard = sg_allocate(sg_guard_room(f->guard));
  if (!c->in || !c->out || !c->source || !c->target || !c->bindings || !c->guard) {
    surrogate_context_destroy(c);
    return sg_fail(SURROGATE_MEMORY, "there is no memory");
  }
  *result = c;
  return SURROGATE_OK;
}

/* Padding arrays for a batch that the samples do not fill; made once for the largest batch that needed them. */
static int make_room(surrogate_context *c, int64_t batch) {
  if (c->room >= batch) return SURROGATE_OK;
  const sg_function *f = c->function;
  free_padding(c);
  bool good = true;
  for (int i = 0; i < f->num_inputs; i++)
    good = good && (c->in[i] = sg_allocate(f->inputs[i].described.bytes * (size_t)batch));
  for (int i = 0; i < f->num_outputs; i++)
    good = good && (c->out[i] = sg_allocate(f->outputs[i].described.bytes * (size_t)batch));
  if (!good) {
    free_padding(c);
    return sg_fail(SURROGATE_MEMORY, "%s: there is no memory for a batch of %lld", f->name, (long long)batch);
  }
  c->room = batch;
  return SURROGATE_OK;
}

static int run_batch(surrogate_context *c, sg_program *p, int64_t first, int64_t count, const void *const *inputs,
                     void *const *outputs) {
  const sg_function *f = c->function;
  bool whole = count == p->batch;
  void **binding = &c->bindings[p - f->programs];
  int status = whole ? SURROGATE_OK : make_room(c, p->batch);
  if (!status && !*binding) status = c->model->backend->bind(c->model->client, p, &c->lane, binding);
  if (status) return status;
  for (int i = 0; i < f->num_inputs; i++) {
    size_t bytes = f->inputs[i].described.bytes;
    const char *from = (const char *)inputs[i] + (size_t)first * bytes;
    c->source[i] = from;
    if (whole) continue;
    char *to = c->in[i];
    memcpy(to, from, (size_t)count * bytes);
    /* The last sample again: it is surely within what the surrogate can bear. */
    for (int64_t row = count; row < p->batch; row++) memcpy(to + (size_t)row * bytes, from + (size_t)(count - 1) * bytes, bytes);
    c->source[i] = to;
  }
  for (int i = 0; i < f->num_outputs; i++)
    c->target[i] = whole ? (char *)outputs[i] + (size_t)first * f->outputs[i].described.bytes : c->out[i];
  status = c->model->backend->run(c->model->client, p, *binding, c->source, c->target);
  for (int i = 0; i < f->num_outputs && !whole && !status; i++) {
    size_t bytes = f->outputs[i].described.bytes;
    memcpy((char *)outputs[i] + (size_t)first * bytes, c->out[i], (size_t)count * bytes);
  }
  return status;
}

static int check_arrays(const sg_function *f, bool input, int64_t samples, const void *const *arrays,
                        const size_t *bytes) {
  const char *word = input ? "input" : "output";
  int count = input ? f->num_inputs : f->num_outputs;
  if (!arrays) return sg_fail(SURROGATE_INVALID, "%s: the %ss are NULL", f->name, word);
  for (int i = 0; i < count; i++) {
    const surrogate_argument *a = input ? &f->inputs[i].described : &f->outputs[i].described;
    if (!arrays[i]) return sg_fail(SURROGATE_INVALID, "%s: %s '%s' is NULL", f->name, word, a->name);
    if (samples > (int64_t)(SIZE_MAX / 2 / a->bytes))
      return sg_fail(SURROGATE_INVALID, "%s: %lld samples are more than memory holds", f->name, (long long)samples);
    if (bytes && bytes[i] != a->bytes * (size_t)samples)
      return sg_fail(SURROGATE_INVALID, "%s: %s '%s' has %zu bytes; %lld samples of it are %zu", f->name, word, a->name,
                     bytes[i], (long long)samples, a->bytes * (size_t)samples);
  }
  return SURROGATE_OK;
}

int surrogate_run(surrogate_context *c, int64_t samples, const void *const *inputs, const size_t *input_bytes,
                  void *const *outputs, const size_t *output_bytes) {
  if (!c) return sg_fail(SURROGATE_INVALID, "the context is NULL");
  if (samples < 0) return sg_fail(SURROGATE_INVALID, "%s: %lld samples", c->function->name, (long long)samples);
  if (samples == 0) return SURROGATE_OK;
  int status = check_arrays(c->function, true, samples, inputs, input_bytes);
  if (!status) status = check_arrays(c->function, false, samples, (const void *const *)outputs, output_bytes);
  for (int64_t done = 0; done < samples && !status;) {
    sg_program *p = c->fixed ? c->fixed : choose(c->function, samples - done);
    int64_t count = samples - done < p->batch ? samples - done : p->batch;
    status = prepare(c->model, c->function, p);
    if (!status) status = run_batch(c, p, done, count, inputs, outputs);
    done += count;
  }
  return status;
}

/* -- guarding -------------------------------------------------------------------------------- */

static int no_guard(const surrogate_model *model, const sg_function *f) {
  return sg_fail(SURROGATE_INVALID, "%s: %s has no guard", model->bundle.directory, f->name);
}

int surrogate_guard_threshold(const surrogate_model *model, const char *function, double *threshold) {
  sg_function *f = find_function(model, function);
  if (!f) return no_function(model, function);
  if (!threshold) return sg_fail(SURROGATE_INVALID, "surrogate_guard_threshold needs a result");
  if (!f->guard) return no_guard(model, f);
  *threshold = sg_guard_threshold(f->guard);
  return SURROGATE_OK;
}

int surrogate_guard(surrogate_context *c, int64_t samples, const void *const *inputs, const size_t *input_bytes,
                    int32_t *flags, float *distances) {
  if (!c) return sg_fail(SURROGATE_INVALID, "the context is NULL");
  if (!c->function->guard) return no_guard(c->model, c->function);
  if (samples < 0) return sg_fail(SURROGATE_INVALID, "%s: %lld samples", c->function->name, (long long)samples);
  if (samples == 0) return SURROGATE_OK;
  int status = check_arrays(c->function, true, samples, inputs, input_bytes);
  if (!status) sg_guard_run(c->function->guard, samples, inputs, c->guard, flags, distances);
  return status;
}

int surrogate_run_guarded(surrogate_context *c, int64_t samples, const void *const *inputs, const size_t *input_bytes,
                          void *const *outputs, const size_t *output_bytes, int32_t *flags) {
  /* First, since an output may be written over an input. */
  int status = surrogate_guard(c, samples, inputs, input_bytes, flags, NULL);
  return status ? status : surrogate_run(c, samples, inputs, input_bytes, outputs, output_bytes);
}
