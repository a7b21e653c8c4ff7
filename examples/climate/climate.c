/* climate BUNDLE STATES MEMBERS STEPS FORECAST: an ensemble forecast by an exported surrogate; see README.md. */
#include <stdio.h>
#include <stdlib.h>

#include "surrogate.h"

enum { MOST = 32 };

static void check(int status) {
  if (!status) return;
  fprintf(stderr, "climate: %s\n", surrogate_last_error());
  exit(1);
}

static void stop(const char *what, const char *name) {
  fprintf(stderr, "climate: %s %s\n", what, name);
  exit(1);
}

int main(int count, char **words) {
  if (count != 6) stop("usage: climate BUNDLE STATES MEMBERS STEPS", "FORECAST");
  const long members = atol(words[3]), steps = atol(words[4]);
  surrogate_model *model;
  surrogate_context *step;
  check(surrogate_open(SURROGATE_ABI_VERSION, words[1], NULL, &model)); /* once, never in the time loop */
  check(surrogate_context_create(model, "step", 0, &step));

  const int fields = surrogate_num_arguments(model, "step", SURROGATE_INPUT);
  const int results = surrogate_num_arguments(model, "step", SURROGATE_OUTPUT);
  if (fields > MOST || results > MOST) stop("too many arguments in", words[1]);
  void *state[MOST], *next[MOST] = {NULL};
  size_t bytes[MOST], next_bytes[MOST];
  surrogate_argument described[MOST];
  FILE *file = fopen(words[2], "rb");
  if (!file) stop("cannot read", words[2]);
  for (int i = 0; i < fields; i++) {
    described[i].struct_size = sizeof described[i];
    check(surrogate_describe(model, "step", SURROGATE_INPUT, i, &described[i]));
    bytes[i] = described[i].bytes * (size_t)members;
    state[i] = aligned_alloc(64, (bytes[i] + 63) / 64 * 64); /* aligned arrays are read in place */
    if (!state[i] || fread(state[i], 1, bytes[i], file) != bytes[i]) stop("too short:", words[2]);
    /* What is predicted of a field is written over it. */
    int k = surrogate_find(model, "step", SURROGATE_OUTPUT, described[i].name);
    if (k < 0) stop("the surrogate does not predict", described[i].name);
    next[k] = state[i];
    next_bytes[k] = bytes[i];
  }
  if (members < 1 || fgetc(file) != EOF) stop("holds another number of members:", words[2]);
  fclose(file);
  for (int k = 0; k < results; k++)
    if (!next[k]) stop("this example has no place for diagnostic outputs of", words[1]);

  for (long n = 1; n <= steps; n++) {
    check(surrogate_run(step, members, (const void *const *)state, bytes, next, next_bytes));
    const float *first = state[0];
    double sum = 0;
    for (size_t j = 0; j < bytes[0] / sizeof *first; j++) sum += first[j];
    printf("step %ld: mean of %s %.4f %s\n", n, described[0].name, sum * sizeof *first / (double)bytes[0],
           described[0].units);
  }

  file = fopen(words[5], "wb");
  for (int i = 0; i < fields && file; i++)
    if (fwrite(state[i], 1, bytes[i], file) != bytes[i]) stop("cannot write", words[5]);
  if (!file || fclose(file)) stop("cannot write", words[5]);
  for (int i = 0; i < fields; i++) free(state[i]);
  check(surrogate_context_destroy(step));
  check(surrogate_close(model));
  return 0;
}
