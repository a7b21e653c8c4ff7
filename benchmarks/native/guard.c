/* guard BUNDLE FUNCTION SAMPLES ROUNDS: median microseconds per call of the function alone, and of the guard alone. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "surrogate.h"

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int count, char **words) {
  if (count != 5) return 2;
  long samples = atol(words[3]), rounds = atol(words[4]);
  surrogate_model *model;
  surrogate_context *context;
  const void *in[64];
  void *out[64];
  if (surrogate_open(SURROGATE_ABI_VERSION, words[1], NULL, &model) ||
      surrogate_context_create(model, words[2], 0, &context)) {
    fprintf(stderr, "%s\n", surrogate_last_error());
    return 1;
  }
  for (int d = 0; d < 2; d++)
    for (int i = 0; i < surrogate_num_arguments(model, words[2], d); i++) {
      surrogate_argument a = {.struct_size = sizeof a};
      surrogate_describe(model, words[2], d, i, &a);
      void *memory = calloc((size_t)samples, a.bytes);
      if (d == SURROGATE_INPUT) in[i] = memory;
      else out[i] = memory;
    }
  int32_t *flags = calloc((size_t)samples, sizeof *flags);
  double *runs = calloc((size_t)rounds, sizeof *runs), *guards = calloc((size_t)rounds, sizeof *guards);
  for (long r = 0; r < rounds; r++) {
    double a = now();
    if (surrogate_run(context, samples, in, NULL, out, NULL)) return 1;
    double b = now();
    if (surrogate_guard(context, samples, in, NULL, flags, NULL)) return 1;
    double c = now();
    runs[r] = b - a;
    guards[r] = c - b;
  }
  qsort(runs, (size_t)rounds, sizeof *runs, by_value);
  qsort(guards, (size_t)rounds, sizeof *guards, by_value);
  double run = runs[rounds / 2], guard = guards[rounds / 2];
  printf("run %.3f us, guard %.3f us, %.1f %%\n", run, guard, 100 * guard / run);
  return 0;
}
