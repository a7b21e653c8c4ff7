/* cycles BUNDLE NUMBER: open, run, close NUMBER times; prints the resident memory in KiB after a tenth and at the end.
 *
 * Built with -fsanitize=leak, or run by valgrind, it ends with their status when something was never released. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "surrogate.h"

static int fail(void) {
  fprintf(stderr, "cycles: %s\n", surrogate_last_error());
  return 1;
}

static long resident(void) {
  FILE *file = fopen("/proc/self/statm", "r");
  long pages = 0;
  if (!file || fscanf(file, "%*d %ld", &pages) != 1) return -1;
  fclose(file);
  return pages * 4;
}

int main(int count, char **words) {
  if (count != 3) return 2;
  long number = atol(words[2]);
  for (long k = 1; k <= number; k++) {
    surrogate_model *model;
    surrogate_context *context;
    void *arrays[2][64];
    if (surrogate_open(SURROGATE_ABI_VERSION, words[1], NULL, &model)) return fail();
    const char *name = surrogate_function_name(model, 0);
    if (surrogate_context_create(model, name, 0, &context)) return fail();
    for (int d = 0; d < 2; d++)
      for (int i = 0; i < surrogate_num_arguments(model, name, d) && i < 64; i++) {
        surrogate_argument a = {.struct_size = sizeof a};
        if (surrogate_describe(model, name, d, i, &a)) return fail();
        arrays[d][i] = calloc(1, a.bytes);
      }
    if (surrogate_run(context, 1, (const void *const *)arrays[0], NULL, arrays[1], NULL)) return fail();
    for (int d = 0; d < 2; d++)
      for (int i = 0; i < surrogate_num_arguments(model, name, d) && i < 64; i++) free(arrays[d][i]);
    surrogate_context_destroy(context);
    if (surrogate_close(model)) return fail();
    if (k == (number + 9) / 10 || k == number) {
      printf("%ld\t%ld\n", k, resident());
      fflush(stdout);
    }
  }
  return 0;
}
