/* driver BUNDLE FUNCTION SAMPLES BATCH THREADS CALLS INPUTS OUTPUTS
 *
 * Reads all inputs one after another from a file, calls the function CALLS times in each of THREADS threads, demands
 * equal bits of all of them, and writes the outputs one after another. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "surrogate.h"

enum { MOST = 32 };

static surrogate_model *model;
static const char *function;
static long samples, batch, calls;
static int num_in, num_out;
static void *inputs[MOST], *expected[MOST];
static size_t in_bytes[MOST], out_bytes[MOST];

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, surrogate_last_error());
  exit(1);
}

static size_t bytes_of(int direction, int index) {
  surrogate_argument a = {.struct_size = sizeof a};
  if (surrogate_describe(model, function, direction, index, &a)) fail("describe");
  return a.bytes * (size_t)samples;
}

static void *work(void *unused) {
  (void)unused;
  surrogate_context *context;
  void *outputs[MOST];
  if (surrogate_context_create(model, function, batch, &context)) fail("context");
  for (int i = 0; i < num_out; i++) outputs[i] = malloc(out_bytes[i] + 8);
  for (long call = 0; call < calls; call++) {
    for (int i = 0; i < num_out; i++) memset(outputs[i], 0x55, out_bytes[i] + 8);
    if (surrogate_run(context, samples, (const void *const *)inputs, in_bytes, outputs, out_bytes)) fail("run");
    for (int i = 0; i < num_out; i++) {
      if (memcmp(outputs[i], expected[i], out_bytes[i])) {
        fprintf(stderr, "call %ld: output %d has other bits\n", call, i);
        exit(1);
      }
      if (memcmp((char *)outputs[i] + out_bytes[i], "UUUUUUUU", 8)) {
        fprintf(stderr, "output %d was written past its end\n", i);
        exit(1);
      }
    }
  }
  for (int i = 0; i < num_out; i++) free(outputs[i]);
  surrogate_context_destroy(context);
  return NULL;
}

int main(int count, char **words) {
  if (count != 9) return 2;
  function = words[2];
  samples = atol(words[3]);
  batch = atol(words[4]);
  int threads = atoi(words[5]);
  calls = atol(words[6]);
  if (surrogate_open(SURROGATE_ABI_VERSION, words[1], NULL, &model)) fail("open");
  num_in = surrogate_num_arguments(model, function, SURROGATE_INPUT);
  num_out = surrogate_num_arguments(model, function, SURROGATE_OUTPUT);
  FILE *file = fopen(words[7], "rb");
  for (int i = 0; i < num_in; i++) {
    in_bytes[i] = bytes_of(SURROGATE_INPUT, i);
    inputs[i] = malloc(in_bytes[i] + 4);
    inputs[i] = (char *)inputs[i] + (i % 2 ? 4 : 0); /* aligned and unaligned arrays */
    if (fread(inputs[i], 1, in_bytes[i], file) != in_bytes[i]) return 3;
  }
  fclose(file);
  surrogate_context *context;
  if (surrogate_context_create(model, function, batch, &context)) fail("context");
  for (int i = 0; i < num_out; i++) {
    out_bytes[i] = bytes_of(SURROGATE_OUTPUT, i);
    expected[i] = malloc(out_bytes[i] + 1);
  }
  if (surrogate_run(context, samples, (const void *const *)inputs, in_bytes, expected, out_bytes)) fail("run");
  surrogate_context_destroy(context);
  pthread_t *workers = calloc((size_t)threads, sizeof *workers);
  for (int i = 0; i < threads; i++) pthread_create(&workers[i], NULL, work, NULL);
  for (int i = 0; i < threads; i++) pthread_join(workers[i], NULL);
  file = fopen(words[8], "wb");
  for (int i = 0; i < num_out; i++) fwrite(expected[i], 1, out_bytes[i], file);
  fclose(file);
  if (surrogate_close(model)) fail("close");
  return 0;
}
