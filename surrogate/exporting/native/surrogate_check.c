/* surrogate-check: open a Bundle on this machine, compile all its programs, compare each with the golden vectors.
 *
 * Usage: surrogate-check BUNDLE [--plugin PATH] [--platform NAME] [--backend NAME] [--threads N] [--cache PLACE]
 *
 * Prints one line a finding, key and value parted by a tab; times are those of the golden samples, the best of a
 * tenth of a second. Exits with 0 when all is right, 1 otherwise.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "surrogate.h"

static int fail(void) {
  fprintf(stderr, "surrogate-check: %s\n", surrogate_last_error());
  return 1;
}

enum { MOST = 4096 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

/* The shortest call on arrays of zeros, in microseconds: what it computes does not matter to how long it takes. */
static int time_calls(const surrogate_model *model, const char *name, surrogate_context *context, int64_t samples,
                      double *best) {
  static void *arrays[2][MOST];
  int counts[2], status = 0;
  memset(arrays, 0, sizeof arrays);
  for (int d = 0; d < 2 && !status; d++) {
    counts[d] = surrogate_num_arguments(model, name, d);
    for (int i = 0; i < counts[d] && i < MOST && !status; i++) {
      surrogate_argument a = {.struct_size = sizeof a};
      status = surrogate_describe(model, name, d, i, &a);
      size_t bytes = (a.bytes * (size_t)samples + 63) / 64 * 64;
      if (!status && (arrays[d][i] = aligned_alloc(64, bytes))) memset(arrays[d][i], 0, bytes);
    }
  }
  double begin = now(), last = begin;
  for (int call = 0; !status && (call < 3 || last - begin < 1e5); call++) {
    status = surrogate_run(context, samples, (const void *const *)arrays[SURROGATE_INPUT], NULL, arrays[SURROGATE_OUTPUT], NULL);
    double end = now();
    if (!call || end - last < *best) *best = end - last;
    last = end;
  }
  for (int d = 0; d < 2; d++)
    for (int i = 0; i < MOST; i++) free(arrays[d][i]);
  return status;
}

int main(int count, char **words) {
  surrogate_options options = {.struct_size = sizeof options, .lazy = 1};
  surrogate_model *model;
  int wrong = count < 2;
  for (int i = 2; i < count && !wrong; i += 2) {
    wrong = i + 1 >= count;
    if (!wrong && !strcmp(words[i], "--plugin")) options.plugin = words[i + 1];
    else if (!wrong && !strcmp(words[i], "--platform")) options.platform = words[i + 1];
    else if (!wrong && !strcmp(words[i], "--backend")) options.backend = words[i + 1];
    else if (!wrong && !strcmp(words[i], "--threads")) options.threads = atoi(words[i + 1]);
    else if (!wrong && !strcmp(words[i], "--cache")) options.cache = words[i + 1];
    else wrong = 1;
  }
  if (wrong) {
    fprintf(stderr, "usage: surrogate-check BUNDLE [--plugin PATH] [--platform NAME] [--backend NAME] [--threads N] "
                    "[--cache PLACE]\n");
    return 2;
  }
  if (surrogate_open(SURROGATE_ABI_VERSION, words[1], &options, &model)) return fail();
  printf("%s\t%s\n", surrogate_info(model, "backend"), surrogate_info(model, "plugin_version"));
  const char *name;
  for (int k = 0; (name = surrogate_function_name(model, k)); k++) {
    int64_t sizes[64];
    int programs = surrogate_batches(model, name, sizes, 64);
    for (int i = 0; i < programs && i < 64; i++) {
      surrogate_context *context;
      if (surrogate_context_create(model, name, sizes[i], &context)) return fail();
      double microseconds = 0;
      if (time_calls(model, name, context, sizes[i], &microseconds)) return fail();
      printf("%s/%lld/microseconds\t%.2f\n", name, (long long)sizes[i], microseconds);
      surrogate_context_destroy(context);
      for (int o = 0; o < surrogate_num_arguments(model, name, SURROGATE_OUTPUT); o++) {
        surrogate_argument a = {.struct_size = sizeof a};
        double difference, tolerance;
        if (surrogate_describe(model, name, SURROGATE_OUTPUT, o, &a) ||
            surrogate_self_test(model, name, sizes[i], o, &difference, &tolerance))
          return fail();
        printf("%s/%lld/%s\t%.3g of %.3g %s\n", name, (long long)sizes[i], a.name, difference, tolerance, a.units);
      }
    }
  }
  printf("cache\t%s\n", surrogate_info(model, "cache"));
  surrogate_close(model);
  return 0;
}
