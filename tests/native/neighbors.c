/* neighbors IN OUT: the library's pairs for systems that are read one after another.
 *
 * IN: int64 n and three of pbc, double cutoff, cell (9), positions (3 n). OUT: int64 status and number of pairs, then
 * int64 i, j, shift (3) and double vector (3) of each; failures are printed. */
#include <stdarg.h>
#include <stdio.h>

#include "sg_neighbors.c"

int sg_fail(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vprintf(format, arguments);
  va_end(arguments);
  printf("\n");
  return status;
}

void *sg_allocate(size_t bytes) { return calloc(1, bytes); }

int main(int count, char **words) {
  if (count != 3) return 2;
  FILE *in = fopen(words[1], "rb"), *out = fopen(words[2], "wb");
  sg_pairs pairs = {0};
  int64_t head[4];
  double cutoff, cell[9];
  while (fread(head, sizeof head, 1, in) == 1) {
    double *positions = malloc((size_t)head[0] * 24 + 1);
    size_t wanted = (size_t)head[0] * 3;
    if (fread(&cutoff, 8, 1, in) != 1 || fread(cell, 8, 9, in) != 9 || fread(positions, 8, wanted, in) != wanted) return 3;
    const int pbc[3] = {(int)head[1], (int)head[2], (int)head[3]};
    int64_t status = sg_find_pairs(&pairs, head[0], positions, cell, pbc, cutoff);
    int64_t found[2] = {status, status ? 0 : (int64_t)pairs.count};
    fwrite(found, 8, 2, out);
    for (int64_t k = 0; k < found[1]; k++) {
      const sg_pair *p = &pairs.all[k];
      int64_t numbers[5] = {p->i, p->j, p->shift[0], p->shift[1], p->shift[2]};
      fwrite(numbers, 8, 5, out);
      fwrite(p->vector, 8, 3, out);
    }
    free(positions);
  }
  sg_free_pairs(&pairs);
  fclose(in);
  fclose(out);
  return 0;
}
