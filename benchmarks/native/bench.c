/* bench BUNDLE FUNCTION BATCH BACKEND INPUTS OUTPUTS: a process that measures calls as it is told on standard input.
 *
 *   time N        N calls one after another: their p50 and p99 in microseconds
 *   bare N        the same with nothing but the plugin's own functions (PJRT)
 *   threads T N   T threads, each with a context, N calls each: seconds for all, and CPU seconds; ends if
 *                 two differ in a bit
 *   memory        peak resident memory in MiB
 *   allocations N allocations per call over N calls: by libsurrogate, by all
 *   write         one call, its outputs written to OUTPUTS
 *
 * On the first line it says how long opening took, in milliseconds. The library is compiled into this program, so that
 * an allocation is known by its return address to be the library's or the plugin's, and so that the bare call can use
 * the very buffers and executable that the library has. */
#define _GNU_SOURCE
#include "sg_pjrt.c"

#include "surrogate.c"

#include <errno.h>
#include <time.h>

/* -- allocations ----------------------------------------------------------------------------- */

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);
extern char __executable_start, etext;

/* Seen by the plugin too, although the library's own functions are hidden. */
#define EXPORTED __attribute__((visibility("default")))

static _Atomic int counting;
static _Atomic long by_library, by_all;

static void count(const void *caller) {
  if (!counting) return;
  by_all++;
  if ((const char *)caller >= &__executable_start && (const char *)caller < &etext) by_library++;
}

EXPORTED void *malloc(size_t size) {
  count(__builtin_return_address(0));
  return __libc_malloc(size);
}

EXPORTED void *calloc(size_t number, size_t size) {
  count(__builtin_return_address(0));
  return __libc_calloc(number, size);
}

EXPORTED void *realloc(void *old, size_t size) {
  count(__builtin_return_address(0));
  return __libc_realloc(old, size);
}

EXPORTED void *memalign(size_t alignment, size_t size) {
  count(__builtin_return_address(0));
  return __libc_memalign(alignment, size);
}

EXPORTED void *aligned_alloc(size_t alignment, size_t size) {
  count(__builtin_return_address(0));
  return __libc_memalign(alignment, size);
}

EXPORTED int posix_memalign(void **memory, size_t alignment, size_t size) {
  count(__builtin_return_address(0));
  *memory = __libc_memalign(alignment, size);
  return *memory ? 0 : ENOMEM;
}

/* -- calls ----------------------------------------------------------------------------------- */

enum { MOST = 64 };
static surrogate_model *model;
static const char *function;
static int64_t batch;
static int num_in, num_out;
static void *inputs[MOST], *outputs[MOST];
static size_t in_bytes[MOST], out_bytes[MOST];

static void stop_here(const char *what) {
  fprintf(stderr, "bench: %s: %s\n", what, surrogate_last_error());
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

/* Seconds of all threads. */
static double cpu_time(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of this program, not of the one that started it. */
static double peak_memory(void) {
  FILE *file = fopen("/proc/self/status", "r");
  char line[200];
  double kib = 0;
  while (file && fgets(line, sizeof line, file) && sscanf(line, "VmHWM: %lf", &kib) != 1) {}
  if (file) fclose(file);
  return kib / 1024;
}

static void *array(size_t bytes) {
  void *made = sg_allocate(bytes);
  if (!made) exit(2);
  return made;
}

static size_t bytes_of(int direction, int index) {
  surrogate_argument a = {.struct_size = sizeof a};
  if (surrogate_describe(model, function, direction, index, &a)) stop_here("describe");
  return a.bytes * (size_t)batch;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void report(double *times, long calls) {
  qsort(times, (size_t)calls, sizeof *times, by_value);
  printf("%.3f %.3f\n", times[calls / 2], times[calls * 99 / 100]);
}

static void run_library(surrogate_context *context) {
  if (surrogate_run(context, batch, (const void *const *)inputs, in_bytes, outputs, out_bytes)) stop_here("run");
}

/* The least that a caller of the plugin itself would do: execute on buffers it has, wait, read, release. */
static void run_bare(const client *c, const sg_program *p, const binding *kept) {
  pj_buffer **arguments = kept->arguments, **results = kept->results;
  pj_execute_options options;
  INIT(options);
  pj_loaded_execute execute;
  INIT(execute);
  pj_buffer *const *const lists[] = {arguments};
  pj_buffer **const out[] = {results};
  pj_event *complete[] = {NULL};
  execute.executable = p->executable;
  execute.options = &options;
  execute.arguments = lists;
  execute.num_devices = 1;
  execute.num_arguments = (size_t)(p->function->num_parameters + p->function->num_inputs);
  execute.outputs = out;
  execute.complete = complete;
  execute.device = c->devices[kept->device];
  if (((pj_call *)entry(c, PJ_LOADED_EXECUTE))(&execute)) stop_here("bare execute");
  pj_on_event on;
  INIT(on);
  on.event = complete[0];
  if (((pj_call *)entry(c, PJ_EVENT_AWAIT))(&on) || ((pj_call *)entry(c, PJ_EVENT_DESTROY))(&on)) stop_here("bare wait");
  for (int i = 0; i < p->function->num_outputs; i++) {
    pj_buffer_unsafe_pointer where;
    INIT(where);
    where.buffer = results[i];
    if (((pj_call *)entry(c, PJ_BUFFER_UNSAFE_POINTER))(&where)) stop_here("bare pointer");
    memcpy(outputs[i], (const void *)where.pointer, out_bytes[i]);
    pj_on_buffer done;
    INIT(done);
    done.buffer = results[i];
    if (((pj_call *)entry(c, PJ_BUFFER_DESTROY))(&done)) stop_here("bare destroy");
  }
}

static void time_calls(surrogate_context *context, long calls, bool bare) {
  double *times = malloc((size_t)calls * sizeof *times);
  run_library(context);
  int which = (int)(context->fixed - context->function->programs);
  binding *kept = context->bindings[which];
  for (long i = 0; i < calls; i++) {
    double begin = now();
    if (bare) run_bare(model->client, context->fixed, kept);
    else run_library(context);
    times[i] = now() - begin;
  }
  if (bare) memset(kept->results, 0, sizeof *kept->results * (size_t)num_out);
  report(times, calls);
  free(times);
}

/* -- threads --------------------------------------------------------------------------------- */

static long calls_of_each;
static pthread_barrier_t ready;

static void *work(void *expected) {
  surrogate_context *context;
  void *own[MOST];
  if (surrogate_context_create(model, function, batch, &context)) stop_here("context");
  for (int i = 0; i < num_out; i++) own[i] = array(out_bytes[i]);
  if (surrogate_run(context, batch, (const void *const *)inputs, NULL, own, NULL)) stop_here("run");
  pthread_barrier_wait(&ready);
  for (long k = 0; k < calls_of_each; k++)
    if (surrogate_run(context, batch, (const void *const *)inputs, NULL, own, NULL)) stop_here("run");
  for (int i = 0; i < num_out; i++)
    if (memcmp(own[i], ((void **)expected)[i], out_bytes[i])) {
      fprintf(stderr, "bench: two threads differ in output %d\n", i);
      exit(3);
    }
  for (int i = 0; i < num_out; i++) free(own[i]);
  surrogate_context_destroy(context);
  return NULL;
}

static void time_threads(surrogate_context *context, int threads, long calls) {
  pthread_t workers[64];
  run_library(context);
  calls_of_each = calls;
  pthread_barrier_init(&ready, NULL, (unsigned)threads + 1);
  for (int i = 0; i < threads; i++) pthread_create(&workers[i], NULL, work, outputs);
  pthread_barrier_wait(&ready);
  double begin = now(), computed = cpu_time();
  for (int i = 0; i < threads; i++) pthread_join(workers[i], NULL);
  printf("%.6f %.6f\n", (now() - begin) * 1e-6, cpu_time() - computed);
  pthread_barrier_destroy(&ready);
}

static void count_allocations(surrogate_context *context, long calls) {
  run_library(context);
  by_library = by_all = 0;
  counting = 1;
  for (long i = 0; i < calls; i++) run_library(context);
  counting = 0;
  printf("%.3f %.3f\n", (double)by_library / (double)calls, (double)by_all / (double)calls);
}

int main(int number, char **words) {
  if (number != 7) return 2;
  function = words[2];
  batch = atol(words[3]);
  surrogate_options options = {.struct_size = sizeof options, .backend = words[4], .lazy = 1};
  surrogate_context *context;
  double begin = now();
  if (surrogate_open(SURROGATE_ABI_VERSION, words[1], &options, &model)) stop_here("open");
  if (surrogate_context_create(model, function, batch, &context)) stop_here("context");
  printf("%.3f %s\n", (now() - begin) * 1e-3, surrogate_info(model, "cache"));
  num_in = surrogate_num_arguments(model, function, SURROGATE_INPUT);
  num_out = surrogate_num_arguments(model, function, SURROGATE_OUTPUT);
  if (num_in > MOST || num_out > MOST) return 2;
  FILE *file = fopen(words[5], "rb");
  for (int i = 0; i < num_in; i++) {
    inputs[i] = array(in_bytes[i] = bytes_of(SURROGATE_INPUT, i));
    if (!file || fread(inputs[i], 1, in_bytes[i], file) != in_bytes[i]) return 2;
  }
  fclose(file);
  for (int i = 0; i < num_out; i++) outputs[i] = array(out_bytes[i] = bytes_of(SURROGATE_OUTPUT, i));
  char line[200];
  long a, b;
  for (fflush(stdout); fgets(line, sizeof line, stdin); fflush(stdout)) {
    if (sscanf(line, "time %ld", &a) == 1) time_calls(context, a, false);
    else if (sscanf(line, "bare %ld", &a) == 1) time_calls(context, a, true);
    else if (sscanf(line, "threads %ld %ld", &a, &b) == 2 && a > 0 && a <= 64) time_threads(context, (int)a, b);
    else if (sscanf(line, "allocations %ld", &a) == 1) count_allocations(context, a);
    else if (!strncmp(line, "memory", 6)) {
      printf("%.1f\n", peak_memory());
    } else if (!strncmp(line, "write", 5)) {
      run_library(context);
      file = fopen(words[6], "wb");
      for (int i = 0; i < num_out && file; i++) fwrite(outputs[i], 1, out_bytes[i], file);
      if (!file || fclose(file)) return 2;
      printf("written\n");
    } else return 2;
  }
  surrogate_context_destroy(context);
  return surrogate_close(model);
}
