/* surrogate-check: open a Bundle on this machine, compile all its programs, compare each with the golden vectors.
 *
 * Usage: surrogate-check BUNDLE [--plugin PATH] [--platform NAME]
 *
 * Prints one line a finding, key and value parted by a tab. Exits with 0 when all is right, 1 otherwise.
 */
#include <stdio.h>
#include <string.h>

#include "surrogate.h"

static int fail(void) {
  fprintf(stderr, "surrogate-check: %s\n", surrogate_last_error());
  return 1;
}

int main(int count, char **words) {
  surrogate_options options = {.struct_size = sizeof options, .lazy = 1};
  surrogate_model *model;
  int wrong = count < 2;
  for (int i = 2; i < count && !wrong; i += 2) {
    wrong = i + 1 >= count;
    if (!wrong && !strcmp(words[i], "--plugin")) options.plugin = words[i + 1];
    else if (!wrong && !strcmp(words[i], "--platform")) options.platform = words[i + 1];
    else wrong = 1;
  }
  if (wrong) {
    fprintf(stderr, "usage: surrogate-check BUNDLE [--plugin PATH] [--platform NAME]\n");
    return 2;
  }
  if (surrogate_open(SURROGATE_ABI_VERSION, words[1], &options, &model)) return fail();
  printf("pjrt\t%s\n", surrogate_info(model, "plugin_version"));
  const char *name;
  for (int k = 0; (name = surrogate_function_name(model, k)); k++) {
    int64_t sizes[64];
    int programs = surrogate_batches(model, name, sizes, 64);
    for (int i = 0; i < programs && i < 64; i++) {
      surrogate_context *context;
      if (surrogate_context_create(model, name, sizes[i], &context)) return fail();
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
  surrogate_close(model);
  return 0;
}
