/* errors BUNDLE: make every mistake that a caller can make and print status and sentence of each. */
#include <stdio.h>
#include <string.h>

#include "surrogate.h"

static void show(const char *what, int status) {
  printf("%s\t%d\t%s\n", what, status, status ? surrogate_last_error() : "");
}

int main(int count, char **words) {
  if (count != 2) return 2;
  surrogate_model *model = (surrogate_model *)1;
  surrogate_context *context = (surrogate_context *)1;
  show("abi", surrogate_open(SURROGATE_ABI_VERSION + 1, words[1], NULL, &model));
  if (model) return 3;
  show("null", surrogate_open(SURROGATE_ABI_VERSION, NULL, NULL, &model));
  surrogate_options options = {.struct_size = 3};
  show("struct_size", surrogate_open(SURROGATE_ABI_VERSION, words[1], &options, &model));
  options = (surrogate_options){.struct_size = sizeof options, .plugin = "/nowhere/plugin.so"};
  show("no_plugin", surrogate_open(SURROGATE_ABI_VERSION, words[1], &options, &model));
  options.plugin = "libc.so.6";
  show("bare_name", surrogate_open(SURROGATE_ABI_VERSION, words[1], &options, &model));
  options.plugin = words[0];
  show("not_a_plugin", surrogate_open(SURROGATE_ABI_VERSION, words[1], &options, &model));
  options = (surrogate_options){.struct_size = sizeof options, .platform = "cuda"};
  show("platform", surrogate_open(SURROGATE_ABI_VERSION, words[1], &options, &model));
  options = (surrogate_options){.struct_size = sizeof options, .device = 5};
  show("device", surrogate_open(SURROGATE_ABI_VERSION, words[1], &options, &model));

  show("open", surrogate_open(SURROGATE_ABI_VERSION, words[1], NULL, &model));
  if (!model) return 4;
  show("function", surrogate_context_create(model, "leap", 0, &context));
  if (context) return 5;
  show("batch", surrogate_context_create(model, "step", 3, &context));
  show("find", surrogate_find(model, "step", SURROGATE_INPUT, "pressure"));
  surrogate_argument a = {.struct_size = sizeof a};
  show("index", surrogate_describe(model, "step", SURROGATE_OUTPUT, 99, &a));
  show("create", surrogate_context_create(model, "step", 0, &context));
  show("close_in_use", surrogate_close(model));

  const void *inputs[32] = {0};
  void *outputs[32] = {0};
  size_t in_bytes[32] = {0}, out_bytes[32] = {0};
  static float zeros[1 << 20];
  for (int i = 0; i < 32; i++) inputs[i] = zeros, outputs[i] = zeros;
  show("samples", surrogate_run(context, -1, inputs, NULL, outputs, NULL));
  show("none", surrogate_run(context, 0, inputs, NULL, outputs, NULL));
  show("huge", surrogate_run(context, INT64_MAX, inputs, NULL, outputs, NULL));
  show("bytes", surrogate_run(context, 2, inputs, in_bytes, outputs, NULL));
  show("out_bytes", surrogate_run(context, 2, inputs, NULL, outputs, out_bytes));
  inputs[1] = NULL;
  show("null_input", surrogate_run(context, 1, inputs, NULL, outputs, NULL));
  show("null_inputs", surrogate_run(context, 1, NULL, NULL, outputs, NULL));
  show("null_context", surrogate_run(NULL, 1, inputs, NULL, outputs, NULL));
  surrogate_context_destroy(context);
  show("close", surrogate_close(model));
  return 0;
}
