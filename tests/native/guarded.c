/* guarded BUNDLE FUNCTION SAMPLES INPUTS OUTPUT: inputs one after another from a file; flags, then distances, to another.
 * Traps are on, as in a debug build of a model, and the inputs may hold what is no number. */
#define _GNU_SOURCE
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>

#include "surrogate.h"

static int fail(void) {
  fprintf(stderr, "%s\n", surrogate_last_error());
  return 1;
}

int main(int count, char **words) {
  if (count != 6) return 2;
  long samples = atol(words[3]);
  surrogate_model *model;
  surrogate_context *context;
  void *inputs[32], *outputs[32];
  double threshold;
  if (surrogate_open(SURROGATE_ABI_VERSION, words[1], NULL, &model)) return fail();
  if (surrogate_context_create(model, words[2], 0, &context)) return fail();
  FILE *file = fopen(words[4], "rb");
  for (int i = 0; i < surrogate_num_arguments(model, words[2], SURROGATE_INPUT); i++) {
    surrogate_argument a = {.struct_size = sizeof a};
    if (surrogate_describe(model, words[2], SURROGATE_INPUT, i, &a)) return fail();
    inputs[i] = malloc(a.bytes * (size_t)samples + 1);
    if (fread(inputs[i], a.bytes, (size_t)samples, file) != (size_t)samples) return 3;
  }
  fclose(file);
  for (int i = 0; i < surrogate_num_arguments(model, words[2], SURROGATE_OUTPUT); i++) {
    surrogate_argument a = {.struct_size = sizeof a};
    if (surrogate_describe(model, words[2], SURROGATE_OUTPUT, i, &a)) return fail();
    outputs[i] = malloc(a.bytes * (size_t)samples + 1);
  }
  int32_t *flags = malloc(sizeof *flags * (size_t)samples), *again = malloc(sizeof *again * (size_t)samples);
  float *distances = malloc(sizeof *distances * (size_t)samples);
  if (surrogate_guard_threshold(model, words[2], &threshold)) return fail();
  feclearexcept(FE_ALL_EXCEPT);
  feenableexcept(FE_INVALID | FE_DIVBYZERO | FE_OVERFLOW);
  if (surrogate_guard(context, samples, (const void *const *)inputs, NULL, flags, distances)) return fail();
  fedisableexcept(FE_ALL_EXCEPT);
  if (fetestexcept(FE_INVALID)) return 4; /* the caller's flags are as they were */
  if (surrogate_run_guarded(context, samples, (const void *const *)inputs, NULL, outputs, NULL, again)) return fail();
  for (long i = 0; i < samples; i++)
    if (flags[i] != again[i]) return 5;
  file = fopen(words[5], "wb");
  fwrite(flags, sizeof *flags, (size_t)samples, file);
  fwrite(distances, sizeof *distances, (size_t)samples, file);
  fclose(file);
  surrogate_context_destroy(context);
  return surrogate_close(model);
}
