/* inplace BUNDLE: outputs written over the inputs, at every alignment, have the bits of outputs of their own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "surrogate.h"

enum { SAMPLES = 5, MOST = 16 };

static int fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, surrogate_last_error());
  return 1;
}

int main(int count, char **words) {
  surrogate_model *model;
  surrogate_context *context;
  if (count != 2) return 2;
  if (surrogate_open(SURROGATE_ABI_VERSION, words[1], NULL, &model)) return fail("open");
  if (surrogate_context_create(model, "step", 0, &context)) return fail("context");
  int num_in = surrogate_num_arguments(model, "step", SURROGATE_INPUT), shared = 0;
  int num_out = surrogate_num_arguments(model, "step", SURROGATE_OUTPUT);
  for (int shift = 0; shift < 64; shift += 4) {
    float *in[MOST], *out[MOST], *own[MOST];
    size_t out_bytes[MOST];
    for (int i = 0; i < num_in; i++) {
      surrogate_argument a = {.struct_size = sizeof a};
      if (surrogate_describe(model, "step", SURROGATE_INPUT, i, &a)) return fail("describe");
      size_t size = SAMPLES * a.bytes;
      in[i] = (float *)((char *)aligned_alloc(64, (size + 191) / 64 * 64) + shift);
      for (size_t k = 0; k < size / 4; k++) in[i][k] = (float)(250 + (k * 7 + (size_t)i) % 31);
    }
    for (int o = 0; o < num_out; o++) {
      surrogate_argument a = {.struct_size = sizeof a};
      if (surrogate_describe(model, "step", SURROGATE_OUTPUT, o, &a)) return fail("describe");
      out_bytes[o] = SAMPLES * a.bytes;
      own[o] = malloc(out_bytes[o]);
      int same = surrogate_find(model, "step", SURROGATE_INPUT, a.name);
      out[o] = same >= 0 ? in[same] : malloc(out_bytes[o]);
      shared += same >= 0;
    }
    if (surrogate_run(context, SAMPLES, (const void *const *)in, NULL, (void *const *)own, out_bytes)) return fail("run");
    if (surrogate_run(context, SAMPLES, (const void *const *)in, NULL, (void *const *)out, out_bytes)) return fail("run");
    for (int o = 0; o < num_out; o++)
      if (memcmp(out[o], own[o], out_bytes[o])) {
        fprintf(stderr, "shift %d: output %d has other bits\n", shift, o);
        return 1;
      }
  }
  surrogate_context_destroy(context);
  surrogate_close(model);
  printf("%d\n", shared);
  return 0;
}
