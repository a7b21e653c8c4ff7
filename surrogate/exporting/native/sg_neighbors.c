/* Exact neighbor pairs by a cell list, with as many periodic images as the cutoff reaches.
 *
 * Atoms are wrapped into the cell, their images around it are sorted into bins as wide as the cutoff, and each atom is
 * compared with the images in the 27 bins around it. Candidates are chosen a little wide and measured again from the
 * positions as they were given, so that rounding decides nothing and both ends of a pair agree about it.
 */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "sg_internal.h"
#include "sg_neighbors.h"

#define MAX_IMAGES 2e8
#define FAR_AWAY 1e9 /* cells or Å */

typedef struct image {
  double place[3];
  int32_t atom;
  int32_t shift[3]; /* of the wrapped atom */
} image;

enum { HOME, WRAPPED, IMAGES, ORDER, STARTS }; /* of sg_pairs.scratch */

/* floor and sqrt without libm, which the library does not link to. */
static double down(double x) {
  double whole = (double)(int64_t)x;
  return whole > x ? whole - 1 : whole;
}

static double root(double x) {
  if (!(x > 0)) return 0;
  double y = x > 1 ? x : 1;
  for (int i = 0; i < 2000; i++) {
    double next = 0.5 * (y + x / y);
    if (!(next < y)) break;
    y = next;
  }
  return y;
}

static double dot(const double *a, const double *b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

static void cross(const double *a, const double *b, double *c) {
  c[0] = a[1] * b[2] - a[2] * b[1];
  c[1] = a[2] * b[0] - a[0] * b[2];
  c[2] = a[0] * b[1] - a[1] * b[0];
}

void *sg_scratch(void **memory, size_t *have, size_t bytes) {
  if (*have < bytes) {
    free(*memory);
    *have = bytes + bytes / 4;
    *memory = sg_allocate(*have);
    if (!*memory) {
      *have = 0;
      sg_fail(SURROGATE_MEMORY, "there is no memory for %zu bytes", bytes);
    }
  }
  return *memory;
}

int sg_add_pair(sg_pairs *pairs, sg_pair pair) {
  if (pairs->count == pairs->room) {
    size_t room = pairs->room ? pairs->room * 2 : 1024;
    sg_pair *all = room < SIZE_MAX / sizeof *all ? realloc(pairs->all, room * sizeof *all) : NULL;
    if (!all) return sg_fail(SURROGATE_MEMORY, "there is no memory for %zu pairs of atoms", room);
    pairs->all = all;
    pairs->room = room;
  }
  pairs->all[pairs->count++] = pair;
  return SURROGATE_OK;
}

void sg_free_pairs(sg_pairs *pairs) {
  free(pairs->all);
  for (size_t i = 0; i < sizeof pairs->scratch / sizeof *pairs->scratch; i++) free(pairs->scratch[i]);
  memset(pairs, 0, sizeof *pairs);
}

static int no_volume(const double *cell, const int *pbc) {
  return sg_fail(SURROGATE_INVALID, "the cell [[%g, %g, %g], [%g, %g, %g], [%g, %g, %g]] with pbc (%d, %d, %d) spans no volume",
                 cell[0], cell[1], cell[2], cell[3], cell[4], cell[5], cell[6], cell[7], cell[8], !!pbc[0], !!pbc[1],
                 !!pbc[2]);
}

/* `full`: the cell, with unit vectors orthogonal to the others where it is not periodic. `columns`: of its inverse. */
static int complete(const double *cell, const int *pbc, double full[3][3], double columns[3][3]) {
  double size = 1;
  for (int k = 0; k < 3; k++) {
    for (int x = 0; x < 3; x++) {
      full[k][x] = pbc[k] ? cell[3 * k + x] : 0;
      if (!isfinite(full[k][x])) return no_volume(cell, pbc);
    }
  }
  for (int k = 0; k < 3; k++) {
    if (pbc[k]) continue;
    double *a = full[(k + 1) % 3], *b = full[(k + 2) % 3], normal[3];
    cross(a, b, normal);
    double length = root(dot(normal, normal)), scale = root(dot(a, a)) * root(dot(b, b));
    if (!(length > 1e-6 * scale) || scale == 0) {
      /* At most one of them is there: any direction orthogonal to it will do, the axis nearest to that first. */
      const double *known = dot(a, a) > dot(b, b) ? a : b;
      double square = dot(known, known), axis[3] = {0, 0, 0};
      if (scale > 0) return no_volume(cell, pbc);
      int least = 0;
      for (int x = 1; x < 3; x++)
        if (fabs(known[x]) < fabs(known[least])) least = x;
      axis[least] = 1;
      for (int x = 0; x < 3; x++) normal[x] = axis[x] - (square > 0 ? known[x] * known[least] / square : 0);
      length = root(dot(normal, normal));
    }
    for (int x = 0; x < 3; x++) full[k][x] = normal[x] / length;
  }
  for (int k = 0; k < 3; k++) {
    cross(full[(k + 1) % 3], full[(k + 2) % 3], columns[k]);
    size *= root(dot(full[k], full[k]));
  }
  double volume = dot(full[0], columns[0]);
  if (!(fabs(volume) > 1e-6 * size)) return no_volume(cell, pbc);
  for (int k = 0; k < 3; k++)
    for (int x = 0; x < 3; x++) columns[k][x] /= volume;
  return SURROGATE_OK;
}

/* Wrapped positions and the cells they came from. */
static int wrap(int64_t n, const double *positions, const double *cell, const int *pbc, double columns[3][3],
                double *wrapped, int32_t *home) {
  for (int64_t i = 0; i < n; i++) {
    const double *r = positions + 3 * i;
    double *w = wrapped + 3 * i;
    for (int x = 0; x < 3; x++) {
      if (!isfinite(r[x]) || fabs(r[x]) > FAR_AWAY)
        return sg_fail(SURROGATE_INVALID, "the position of atom %lld is (%g, %g, %g), expected finite numbers of angstrom",
                       (long long)i, r[0], r[1], r[2]);
      w[x] = r[x];
    }
    for (int k = 0; k < 3; k++) {
      double fraction = pbc[k] ? dot(r, columns[k]) : 0;
      if (fabs(fraction) > FAR_AWAY)
        return sg_fail(SURROGATE_INVALID, "atom %lld lies %g cells away from the origin", (long long)i, fraction);
      home[3 * i + k] = (int32_t)down(fraction);
      for (int x = 0; x < 3 && pbc[k]; x++) w[x] -= home[3 * i + k] * cell[3 * k + x];
    }
  }
  return SURROGATE_OK;
}

/* Images of all atoms within the cutoff of the box `low` to `high`; their number, or minus a status. */
static int64_t find_images(sg_pairs *pairs, int64_t n, const double *cell, const int *pbc, double columns[3][3],
                           double cutoff, const double *low, const double *high) {
  const double *wrapped = pairs->scratch[WRAPPED];
  double reach[3], expected = (double)n;
  int span[3];
  for (int k = 0; k < 3; k++) {
    reach[k] = pbc[k] ? cutoff * root(dot(columns[k], columns[k])) + 1e-9 : 0;
    expected *= 1 + 2 * reach[k];
    if (expected > MAX_IMAGES) {
      sg_fail(SURROGATE_INVALID, "the cell is so small beside the cutoff of %g angstrom that %g images would be needed",
              cutoff, expected);
      return -SURROGATE_INVALID;
    }
    span[k] = (int)reach[k] + 1;
  }
  int64_t count = 0;
  for (int pass = 0; pass < 2; pass++) { /* count, then write */
    image *images = NULL;
    if (pass && !(images = sg_scratch(&pairs->scratch[IMAGES], &pairs->scratch_bytes[IMAGES], (size_t)count * sizeof *images)))
      return -SURROGATE_MEMORY;
    count = 0;
    for (int64_t i = 0; i < n; i++) {
      double inside[3];
      for (int k = 0; k < 3; k++) inside[k] = pbc[k] ? dot(wrapped + 3 * i, columns[k]) : 0;
      int32_t s[3];
      for (s[0] = pbc[0] ? -span[0] : 0; s[0] <= (pbc[0] ? span[0] : 0); s[0]++) {
        if (pbc[0] && (inside[0] + s[0] < -reach[0] || inside[0] + s[0] > 1 + reach[0])) continue;
        for (s[1] = pbc[1] ? -span[1] : 0; s[1] <= (pbc[1] ? span[1] : 0); s[1]++) {
          if (pbc[1] && (inside[1] + s[1] < -reach[1] || inside[1] + s[1] > 1 + reach[1])) continue;
          for (s[2] = pbc[2] ? -span[2] : 0; s[2] <= (pbc[2] ? span[2] : 0); s[2]++) {
            if (pbc[2] && (inside[2] + s[2] < -reach[2] || inside[2] + s[2] > 1 + reach[2])) continue;
            double place[3];
            bool near = true;
            for (int x = 0; x < 3; x++) {
              place[x] = wrapped[3 * i + x];
              for (int k = 0; k < 3; k++)
                if (pbc[k]) place[x] += s[k] * cell[3 * k + x];
              near = near && place[x] >= low[x] && place[x] <= high[x];
            }
            if (!near) continue;
            if (images) {
              image *to = &images[count];
              memcpy(to->place, place, sizeof place);
              memcpy(to->shift, s, sizeof s);
              to->atom = (int32_t)i;
            }
            count++;
          }
        }
      }
    }
  }
  return count;
}

static int64_t bin_of(const double *place, const double *low, const double *width, const int64_t *bins, int64_t *at) {
  for (int x = 0; x < 3; x++) {
    at[x] = (int64_t)((place[x] - low[x]) / width[x]);
    if (at[x] < 0) at[x] = 0;
    if (at[x] >= bins[x]) at[x] = bins[x] - 1;
  }
  return (at[0] * bins[1] + at[1]) * bins[2] + at[2];
}

/* Whether the image is later than the atom, so that each pair is taken once. */
static bool later(int64_t i, int32_t j, const int32_t *shift) {
  if (j != i) return j > i;
  for (int k = 0; k < 3; k++)
    if (shift[k]) return shift[k] > 0;
  return false;
}

int sg_find_pairs(sg_pairs *pairs, int64_t n, const double *positions, const double *cell, const int *pbc,
                  double cutoff) {
  static const double nowhere[9];
  double full[3][3], columns[3][3], low[3] = {0, 0, 0}, high[3] = {0, 0, 0}, width[3];
  pairs->count = 0;
  if (n < 1) return SURROGATE_OK;
  if (!cell) cell = nowhere;
  int status = complete(cell, pbc, full, columns);
  if (status) return status;
  int32_t *home = sg_scratch(&pairs->scratch[HOME], &pairs->scratch_bytes[HOME], (size_t)n * 3 * sizeof *home);
  double *wrapped = sg_scratch(&pairs->scratch[WRAPPED], &pairs->scratch_bytes[WRAPPED], (size_t)n * 3 * sizeof *wrapped);
  if (!home || !wrapped) return SURROGATE_MEMORY;
  if ((status = wrap(n, positions, cell, pbc, columns, wrapped, home))) return status;
  const double wide = cutoff * (1 + 1e-9) + 1e-9;
  for (int x = 0; x < 3; x++) {
    low[x] = high[x] = wrapped[x];
    for (int64_t i = 1; i < n; i++) {
      if (wrapped[3 * i + x] < low[x]) low[x] = wrapped[3 * i + x];
      if (wrapped[3 * i + x] > high[x]) high[x] = wrapped[3 * i + x];
    }
    low[x] -= wide, high[x] += wide;
  }
  int64_t count = find_images(pairs, n, cell, pbc, columns, cutoff, low, high);
  if (count < 0) return (int)-count;
  const image *images = pairs->scratch[IMAGES];

  /* Bins at least as wide as the cutoff, and wider where there would be many more bins than images. */
  int64_t bins[3], most = 4 * count + 64;
  for (int x = 0; x < 3; x++) width[x] = wide;
  for (;;) {
    int largest = 0;
    double total = 1;
    for (int x = 0; x < 3; x++) {
      double whole = (high[x] - low[x]) / width[x] + 1;
      bins[x] = whole < 1e9 ? (int64_t)whole : (int64_t)1e9;
      total *= (double)bins[x];
      if (bins[x] > bins[largest]) largest = x;
    }
    if (total <= (double)most) break;
    width[largest] *= 2;
  }
  size_t num_bins = (size_t)(bins[0] * bins[1] * bins[2]);
  int64_t at[3];
  int64_t *starts = sg_scratch(&pairs->scratch[STARTS], &pairs->scratch_bytes[STARTS], (num_bins + 2) * sizeof *starts);
  image *order = sg_scratch(&pairs->scratch[ORDER], &pairs->scratch_bytes[ORDER], (size_t)count * sizeof *order);
  if (!starts || !order) return SURROGATE_MEMORY;
  memset(starts, 0, (num_bins + 2) * sizeof *starts);
  for (int64_t g = 0; g < count; g++) starts[bin_of(images[g].place, low, width, bins, at) + 2]++;
  for (size_t b = 2; b < num_bins + 2; b++) starts[b] += starts[b - 1];
  for (int64_t g = 0; g < count; g++) order[starts[bin_of(images[g].place, low, width, bins, at) + 1]++] = images[g];

  for (int64_t i = 0; i < n; i++) {
    const double *r = positions + 3 * i, *w = wrapped + 3 * i;
    bin_of(w, low, width, bins, at);
    for (int64_t a = at[0] - (at[0] > 0); a <= at[0] + 1 && a < bins[0]; a++)
      for (int64_t b = at[1] - (at[1] > 0); b <= at[1] + 1 && b < bins[1]; b++) {
        int64_t row = (a * bins[1] + b) * bins[2];
        int64_t first = at[2] - (at[2] > 0), last = at[2] + 1 < bins[2] ? at[2] + 1 : bins[2] - 1;
        for (int64_t g = starts[row + first]; g < starts[row + last + 1]; g++) {
          const image *other = &order[g];
          double away[3] = {other->place[0] - w[0], other->place[1] - w[1], other->place[2] - w[2]};
          if (other->atom < i || dot(away, away) > wide * wide) continue;
          sg_pair pair = {.i = (int32_t)i, .j = other->atom};
          for (int k = 0; k < 3; k++) pair.shift[k] = other->shift[k] - home[3 * pair.j + k] + home[3 * i + k];
          if (!later(i, pair.j, pair.shift)) continue;
          for (int x = 0; x < 3; x++) {
            double along = 0;
            for (int k = 0; k < 3; k++)
              if (pbc[k]) along += pair.shift[k] * cell[3 * k + x];
            pair.vector[x] = (positions[3 * pair.j + x] - r[x]) + along;
          }
          double square = dot(pair.vector, pair.vector);
          if (!(square < cutoff * cutoff)) continue;
          if (square < 1e-12)
            return sg_fail(SURROGATE_INVALID, "atoms %lld and %d are in one place", (long long)i, pair.j);
          if ((status = sg_add_pair(pairs, pair))) return status;
        }
      }
  }
  return SURROGATE_OK;
}
