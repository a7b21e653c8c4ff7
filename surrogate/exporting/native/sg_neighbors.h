/* Pairs of atoms closer than a cutoff; no part of the interface. */
#ifndef SG_NEIGHBORS_H
#define SG_NEIGHBORS_H

#include <stddef.h>
#include <stdint.h>

/* Each pair once; the vector from i to j is positions[j] - positions[i] + shift @ cell. */
typedef struct sg_pair {
  int32_t i, j;
  int32_t shift[3];
  double vector[3];
} sg_pair;

/* Zero-initialise. What it holds is used again by the next search and grows where it has to. */
typedef struct sg_pairs {
  sg_pair *all;
  size_t count, room;
  void *scratch[5]; /* see sg_neighbors.c */
  size_t scratch_bytes[5];
} sg_pairs;

/* All pairs strictly closer than `cutoff`, of any cell, periodicity and place; a cell may be far smaller than the
 * cutoff, and an atom a neighbor of itself. cell: rows are vectors; may be NULL where nothing is periodic. */
int sg_find_pairs(sg_pairs *pairs, int64_t count, const double *positions, const double *cell, const int *pbc,
                  double cutoff);

int sg_add_pair(sg_pairs *pairs, sg_pair pair);

/* At least `bytes` of memory that survives until the next call with this slot; NULL with a sentence kept. */
void *sg_scratch(void **memory, size_t *have, size_t bytes);

void sg_free_pairs(sg_pairs *pairs);

#endif
