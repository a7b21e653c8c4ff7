/* Potentials: from atoms to what their programs take, and back. The reference is the part "Atoms" of surrogate.h. */
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "sg_internal.h"
#include "sg_neighbors.h"

#define MAX_RUNGS 64
#define MAX_SPECIES 128
#define INDEX_BITS 0x1fffffff /* of a neighbor: MD codes mark bonds in the bits above */

enum { VECTORS, SENDERS, REVERSE, SPECIES, COUNTED, NUM_INPUTS };
enum { ENERGIES, FORCES, VIRIALS, NUM_OUTPUTS };

typedef struct rung {
  const char *function;
  surrogate_context *context; /* made when it is first needed */
} rung;

struct surrogate_atoms {
  surrogate_model *model;
  const char *name;
  double cutoff;
  int layers, num_rungs, num_species;
  rung rungs[MAX_RUNGS];
  int64_t max_atoms[MAX_RUNGS], max_neighbors[MAX_RUNGS];
  int32_t species[MAX_SPECIES];
  double references[MAX_SPECIES];
  sg_pairs pairs;
  int64_t num_nodes; /* atoms of the program: those of the caller, or those of its ghosts that matter too */
  void *node, *level, *count; /* int32_t each, by caller's atom: its node or -1, hops from an atom; slots taken by node */
  void *in[NUM_INPUTS], *out[NUM_OUTPUTS];
  size_t node_bytes, level_bytes, count_bytes, in_bytes[NUM_INPUTS], out_bytes[NUM_OUTPUTS];
};

/* -- creating -------------------------------------------------------------------------------- */

static int improper(const sg_bundle *b, const char *what) {
  return sg_fail(SURROGATE_BUNDLE, "%s/manifest.json: its entry atoms %s", b->directory, what);
}

static double number_of(const sg_json *object, const char *key) {
  const sg_json *v = sg_json_get(object, key);
  return v && v->kind == SG_NUMBER ? v->number : NAN;
}

/* The numbers of a list, at most `most`; how many, or -1 for something else. */
static int list_of(const sg_json *object, const char *key, int most, double *values) {
  const sg_json *list = sg_json_get(object, key);
  int count = 0;
  if (!list || list->kind != SG_ARRAY || list->count > (size_t)most) return -1;
  for (const sg_json *n = list->child; n; n = n->next) {
    if (n->kind != SG_NUMBER || !isfinite(n->number)) return -1;
    values[count++] = n->number;
  }
  return count;
}

static bool whole(double x, double least, double most) { return x >= least && x <= most && (double)(int64_t)x == x; }

/* The functions of the ladder must have just the arguments that this file writes and reads, in this order. */
static int check_arguments(const surrogate_atoms *c, const char *function, int64_t n, int64_t m) {
  static const char *const in[] = {"vectors", "senders", "reverse", "species", "counted"};
  static const char *const out[] = {"energies", "forces", "virials"};
  const sg_bundle *b = sg_bundle_of(c->model);
  const int64_t in_shape[][3] = {{3, n, m}, {n, m}, {n, m}, {n}, {n}}, out_shape[][3] = {{n}, {n, 3}, {n, 3, 3}};
  const int in_rank[] = {3, 2, 2, 1, 1}, out_rank[] = {1, 2, 3};
  if (surrogate_num_arguments(c->model, function, SURROGATE_INPUT) != NUM_INPUTS ||
      surrogate_num_arguments(c->model, function, SURROGATE_OUTPUT) != NUM_OUTPUTS)
    return improper(b, "names a function with other arguments");
  for (int i = 0; i < NUM_INPUTS + NUM_OUTPUTS; i++) {
    const bool input = i < NUM_INPUTS;
    const int k = input ? i : i - NUM_INPUTS, direction = input ? SURROGATE_INPUT : SURROGATE_OUTPUT;
    const int rank = input ? in_rank[k] : out_rank[k], dtype = input && k ? SURROGATE_INT32 : SURROGATE_FLOAT32;
    surrogate_argument a = {.struct_size = sizeof a};
    if (surrogate_describe(c->model, function, direction, k, &a) || strcmp(a.name, input ? in[k] : out[k]) ||
        a.rank != rank || a.dtype != dtype ||
        memcmp(a.shape, input ? in_shape[k] : out_shape[k], (size_t)rank * sizeof *a.shape))
      return improper(b, "names a function with other arguments");
  }
  return SURROGATE_OK;
}

static int parse(surrogate_atoms *c) {
  const sg_bundle *b = sg_bundle_of(c->model);
  const sg_json *record = sg_json_get(b->manifest, "atoms");
  if (!record) return sg_fail(SURROGATE_INVALID, "%s is no Bundle of a potential: call its functions", b->directory);
  const sg_json *name = sg_json_get(record, "name"), *list = sg_json_get(record, "rungs");
  double layers = number_of(record, "layers"), species[MAX_SPECIES];
  c->cutoff = number_of(record, "cutoff");
  c->num_species = list_of(record, "species", MAX_SPECIES, species);
  if (!name || name->kind != SG_STRING || !(c->cutoff > 0 && c->cutoff < 1e6) || !whole(layers, 1, 100) ||
      c->num_species < 1 || list_of(record, "reference_energies", MAX_SPECIES, c->references) != c->num_species)
    return improper(b, "is not that of a potential");
  c->name = name->text;
  c->layers = (int)layers;
  for (int i = 0; i < c->num_species; i++) {
    if (!whole(species[i], i ? species[i - 1] + 1 : 1, 1000)) return improper(b, "has species that are no atomic numbers");
    c->species[i] = (int32_t)species[i];
  }
  if (!list || list->kind != SG_ARRAY || !list->count || list->count > MAX_RUNGS) return improper(b, "has no ladder");
  for (const sg_json *item = list->child; item; item = item->next) {
    const sg_json *function = sg_json_get(item, "function");
    double n = number_of(item, "atoms"), m = number_of(item, "neighbors");
    if (!function || function->kind != SG_STRING || !whole(n, 1, 1e8) || !whole(m, 1, 1e8) || n * m > 2e9)
      return improper(b, "has a rung that is none");
    int k = c->num_rungs++;
    c->rungs[k].function = function->text;
    c->max_atoms[k] = (int64_t)n;
    c->max_neighbors[k] = (int64_t)m;
    int status = check_arguments(c, function->text, c->max_atoms[k], c->max_neighbors[k]);
    if (status) return status;
  }
  return SURROGATE_OK;
}

int surrogate_atoms_destroy(surrogate_atoms *c) {
  if (!c) return SURROGATE_OK;
  for (int k = 0; k < c->num_rungs; k++) surrogate_context_destroy(c->rungs[k].context);
  for (int i = 0; i < NUM_INPUTS; i++) free(c->in[i]);
  for (int i = 0; i < NUM_OUTPUTS; i++) free(c->out[i]);
  free(c->node);
  free(c->level);
  free(c->count);
  sg_free_pairs(&c->pairs);
  free(c);
  return SURROGATE_OK;
}

int surrogate_atoms_create(surrogate_model *model, surrogate_atoms **result) {
  if (result) *result = NULL;
  if (!model || !result) return sg_fail(SURROGATE_INVALID, "surrogate_atoms_create was given a NULL");
  surrogate_atoms *c = calloc(1, sizeof *c);
  if (!c) return sg_fail(SURROGATE_MEMORY, "there is no memory");
  c->model = model;
  int status = parse(c);
  /* A context of the first keeps the Bundle open, and makes sure that the potential runs here. */
  if (!status) status = surrogate_context_create(model, c->rungs[0].function, 1, &c->rungs[0].context);
  if (status) {
    surrogate_atoms_destroy(c);
    return status;
  }
  *result = c;
  return SURROGATE_OK;
}

int surrogate_atoms_describe(const surrogate_atoms *c, surrogate_atoms_info *result) {
  if (!c || !result || result->struct_size < offsetof(surrogate_atoms_info, cutoff) || result->struct_size > 4096)
    return sg_fail(SURROGATE_INVALID, "surrogate_atoms_describe needs a potential and a result whose struct_size is set");
  const surrogate_atoms_info info = {
      .struct_size = result->struct_size, .function = c->name, .cutoff = c->cutoff, .layers = c->layers,
      .num_species = c->num_species, .species = c->species, .reference_energies = c->references,
      .num_capacities = c->num_rungs, .max_atoms = c->max_atoms, .max_neighbors = c->max_neighbors,
  };
  memset(result, 0, info.struct_size);
  memcpy(result, &info, info.struct_size < sizeof info ? info.struct_size : sizeof info);
  return SURROGATE_OK;
}

static int choose(const surrogate_atoms *c, int64_t atoms, int64_t neighbors, int *chosen) {
  char ladder[300];
  size_t at = 0;
  for (int k = 0; k < c->num_rungs; k++)
    if (atoms <= c->max_atoms[k] && neighbors <= c->max_neighbors[k]) return *chosen = k, SURROGATE_OK;
  ladder[0] = 0;
  for (int k = 0; k < c->num_rungs && at + 48 < sizeof ladder; k++) { /* "64x48, 512x48" */
    char digits[44];
    size_t size = 0;
    for (int part = 1; part >= 0; part--) {
      int64_t value = part ? c->max_neighbors[k] : c->max_atoms[k];
      for (; value; value /= 10) digits[size++] = (char)('0' + value % 10);
      if (part) digits[size++] = 'x';
    }
    if (k) ladder[at++] = ',', ladder[at++] = ' ';
    while (size) ladder[at++] = digits[--size];
    ladder[at] = 0;
  }
  return sg_fail(SURROGATE_INVALID,
                 "%s: %lld atoms with up to %lld neighbors within %g angstrom fit into no capacity of the Bundle (%s): "
                 "export it with a larger one",
                 c->name, (long long)atoms, (long long)neighbors, c->cutoff, ladder);
}

static int prepare(surrogate_atoms *c, int k) {
  rung *r = &c->rungs[k];
  return r->context ? SURROGATE_OK : surrogate_context_create(c->model, r->function, 1, &r->context);
}

int surrogate_atoms_prepare(surrogate_atoms *c, int64_t atoms, int64_t neighbors) {
  int k = 0;
  if (!c || atoms < 0 || neighbors < 0)
    return sg_fail(SURROGATE_INVALID, "surrogate_atoms_prepare was given no potential or a negative number");
  int status = choose(c, atoms, neighbors, &k);
  return status ? status : prepare(c, k);
}

/* -- the pairs ------------------------------------------------------------------------------- */

/* Pairs by the caller's lists. How many each side of the diagonal has tells a full list from a half one; a pair at
 * the very cutoff may be seen by one side alone, so each side is counted a little narrow and a little wide. */
static int read_lists(surrogate_atoms *c, const surrogate_system *s) {
  const int64_t all = s->num_atoms + s->num_ghosts;
  const double limit = c->cutoff * c->cutoff;
  int64_t narrow[2] = {0, 0}, broad[2] = {0, 0};
  c->pairs.count = 0;
  for (int64_t i = 0; i < s->num_lists; i++) {
    if (s->owners && i >= s->num_atoms) break; /* the atoms' own lists hold all there is */
    if (s->num_neighbors[i] < 0 || (s->num_neighbors[i] && !s->neighbors[i]))
      return sg_fail(SURROGATE_INVALID, "%s: the neighbor list of atom %lld is NULL", c->name, (long long)i);
    for (int32_t k = 0; k < s->num_neighbors[i]; k++) {
      const int64_t j = s->neighbors[i][k] & INDEX_BITS;
      if (j >= all || j == i)
        return sg_fail(SURROGATE_INVALID, "%s: the neighbor list of atom %lld of %lld has %lld in it", c->name, (long long)i,
                       (long long)all, (long long)j);
      sg_pair pair = {.i = (int32_t)i, .j = (int32_t)j};
      double square = 0;
      for (int x = 0; x < 3; x++) {
        pair.vector[x] = s->positions[3 * j + x] - s->positions[3 * i + x];
        square += pair.vector[x] * pair.vector[x];
      }
      if (square >= limit * (1 + 1e-9)) continue;
      if (square < 1e-12)
        return sg_fail(SURROGATE_INVALID, "%s: atoms %lld and %lld are in one place", c->name, (long long)i, (long long)j);
      const bool ghost = j >= s->num_atoms;
      const int64_t owner = s->owners && ghost ? s->owners[j - s->num_atoms] : j;
      if (owner < 0 || (s->owners && owner >= s->num_atoms))
        return sg_fail(SURROGATE_INVALID, "%s: ghost %lld has the owner %lld of %lld atoms", c->name, (long long)j,
                       (long long)owner, (long long)s->num_atoms);
      pair.j = (int32_t)owner;
      const bool both = s->owners || j < s->num_lists;
      if (both && owner != i) {
        narrow[i > owner] += square < limit * (1 - 1e-9);
        broad[i > owner]++;
      }
      /* With owners, images of the atom itself come in opposite pairs, to be joined by join_images. */
      if (square >= limit || (both && i > owner)) continue;
      int status = sg_add_pair(&c->pairs, pair);
      if (status) return status;
    }
  }
  if (narrow[0] > broad[1] || narrow[1] > broad[0])
    return sg_fail(SURROGATE_INVALID,
                   "%s: the neighbor lists hold %lld pairs from the lower atom and %lld from the higher: full lists are "
                   "needed, with each pair at both of its atoms",
                   c->name, (long long)broad[0], (long long)broad[1]);
  return SURROGATE_OK;
}

/* Of the pairs of an atom with its own images, which lists hold in both directions, keep one of each two. */
static int join_images(surrogate_atoms *c) {
  sg_pair *all = c->pairs.all;
  size_t kept = 0, first = 0;
  int32_t atom = -1;
  for (size_t k = 0; k < c->pairs.count; k++) { /* pairs are in order of i */
    if (all[k].i != atom) atom = all[k].i, first = kept;
    if (all[k].i != all[k].j) {
      all[kept++] = all[k];
      continue;
    }
    size_t opposite = kept;
    for (size_t o = first; o < kept && opposite == kept; o++) {
      if (all[o].j != atom || all[o].shift[0]) continue;
      double away = 0;
      for (int x = 0; x < 3; x++) away += fabs(all[o].vector[x] + all[k].vector[x]);
      if (away < 1e-4) opposite = o;
    }
    if (opposite < kept) {
      all[opposite].shift[0] = 1; /* joined */
      continue;
    }
    all[kept] = all[k];
    all[kept++].shift[0] = 0;
  }
  for (size_t k = 0; k < kept; k++)
    if (all[k].i == all[k].j && !all[k].shift[0])
      return sg_fail(SURROGATE_INVALID, "%s: atom %d has an image of itself as a neighbor, but not the opposite one",
                     c->name, all[k].i);
  c->pairs.count = kept;
  return SURROGATE_OK;
}

/* Number the atoms of the program: the caller's, then the ghosts within `layers` pairs of one of them. */
static int choose_nodes(surrogate_atoms *c, const surrogate_system *s) {
  const int64_t all = s->num_atoms + s->num_ghosts;
  int32_t *node = sg_scratch(&c->node, &c->node_bytes, (size_t)all * sizeof *node);
  int32_t *level = sg_scratch(&c->level, &c->level_bytes, (size_t)all * sizeof *level);
  if (!node || !level) return SURROGATE_MEMORY;
  sg_pair *pairs = c->pairs.all;
  c->num_nodes = s->num_atoms;
  for (int64_t i = 0; i < all; i++) level[i] = i < s->num_atoms ? 0 : c->layers + 1, node[i] = (int32_t)i;
  if (!s->num_ghosts || s->owners) return SURROGATE_OK;
  for (int hop = 1; hop <= c->layers; hop++)
    for (size_t k = 0; k < c->pairs.count; k++) {
      int32_t *a = &level[pairs[k].i], *b = &level[pairs[k].j];
      if (*a == hop - 1 && *b > hop) *b = hop;
      if (*b == hop - 1 && *a > hop) *a = hop;
    }
  for (int64_t i = s->num_atoms; i < all; i++) node[i] = level[i] <= c->layers ? (int32_t)c->num_nodes++ : -1;
  size_t kept = 0;
  for (size_t k = 0; k < c->pairs.count; k++) {
    sg_pair pair = pairs[k];
    /* Between two of the outermost nothing is passed on that an atom of the caller would see. */
    if (level[pair.i] >= c->layers && level[pair.j] >= c->layers) continue;
    pair.i = node[pair.i];
    pair.j = node[pair.j];
    pairs[kept++] = pair;
  }
  c->pairs.count = kept;
  return SURROGATE_OK;
}

static int find_pairs(surrogate_atoms *c, const surrogate_system *s) {
  const bool periodic = s->pbc[0] || s->pbc[1] || s->pbc[2];
  const int64_t all = s->num_atoms + s->num_ghosts;
  int status = SURROGATE_OK;
  if (periodic && !s->cell) return sg_fail(SURROGATE_INVALID, "%s: pbc is set and the cell is NULL", c->name);
  if (s->num_ghosts && periodic)
    return sg_fail(SURROGATE_INVALID, "%s: with ghosts pbc must be 0, since they are the periodic images", c->name);
  if (s->neighbors) {
    if (periodic)
      return sg_fail(SURROGATE_INVALID, "%s: neighbor lists name atoms and ghosts, so pbc must be 0", c->name);
    if (!s->num_neighbors || (s->num_lists != s->num_atoms && s->num_lists != all))
      return sg_fail(SURROGATE_INVALID, "%s: %lld neighbor lists for %lld atoms and %lld ghosts", c->name,
                     (long long)s->num_lists, (long long)s->num_atoms, (long long)s->num_ghosts);
    if (c->layers > 1 && !s->owners && s->num_lists != all)
      return sg_fail(SURROGATE_INVALID,
                     "%s passes messages over %d layers, so it needs the neighbor lists of ghosts too, or their owners, "
                     "or no lists at all",
                     c->name, c->layers);
    status = read_lists(c, s);
    if (!status && s->owners) status = join_images(c);
  } else {
    if (s->owners) return sg_fail(SURROGATE_INVALID, "%s: owners of ghosts need neighbor lists", c->name);
    status = sg_find_pairs(&c->pairs, all, s->positions, s->cell, s->pbc, c->cutoff);
  }
  return status ? status : choose_nodes(c, s);
}

/* -- the arrays ------------------------------------------------------------------------------ */

/* The pairs as slots of a program of n atoms and m neighbors. */
static int fill(surrogate_atoms *c, const surrogate_system *s, int64_t n, int64_t m) {
  const size_t slots = (size_t)(n * m), sizes[NUM_INPUTS] = {3 * slots, slots, slots, (size_t)n, (size_t)n};
  for (int i = 0; i < NUM_INPUTS; i++)
    if (!sg_scratch(&c->in[i], &c->in_bytes[i], sizes[i] * 4)) return SURROGATE_MEMORY;
  const size_t results[NUM_OUTPUTS] = {(size_t)n, 3 * (size_t)n, 9 * (size_t)n};
  for (int i = 0; i < NUM_OUTPUTS; i++)
    if (!sg_scratch(&c->out[i], &c->out_bytes[i], results[i] * 4)) return SURROGATE_MEMORY;
  float *vectors = c->in[VECTORS];
  int32_t *senders = c->in[SENDERS], *reverse = c->in[REVERSE], *species = c->in[SPECIES], *counted = c->in[COUNTED];
  int32_t *count = c->count;
  const int32_t *node = c->node;
  memset(vectors, 0, 3 * slots * sizeof *vectors);
  for (int64_t i = 0; i < n; i++) {
    for (int64_t k = 0; k < m; k++) senders[i * m + k] = (int32_t)i, reverse[i * m + k] = (int32_t)(i * m + k);
    species[i] = -1;
    counted[i] = i < s->num_atoms;
  }
  memset(count, 0, (size_t)c->num_nodes * sizeof *count);
  for (size_t k = 0; k < c->pairs.count; k++) {
    const sg_pair *p = &c->pairs.all[k];
    const int64_t here = p->i * m + count[p->i]++, there = p->j * m + count[p->j]++;
    for (int x = 0; x < 3; x++) {
      const float along = (float)p->vector[x];
      vectors[(size_t)x * slots + (size_t)here] = along;
      vectors[(size_t)x * slots + (size_t)there] = -along;
    }
    senders[here] = p->j, senders[there] = p->i;
    reverse[here] = (int32_t)there, reverse[there] = (int32_t)here;
  }
  const int64_t all = s->owners ? s->num_atoms : s->num_atoms + s->num_ghosts;
  for (int64_t i = 0; i < all; i++) {
    int kind = 0;
    if (node[i] < 0) continue;
    while (kind < c->num_species && c->species[kind] != s->numbers[i]) kind++;
    if (kind == c->num_species)
      return sg_fail(SURROGATE_INVALID, "%s: atom %lld has atomic number %d; the potential knows %d species, %d to %d",
                     c->name, (long long)i, s->numbers[i], c->num_species, c->species[0], c->species[c->num_species - 1]);
    species[node[i]] = kind;
  }
  return SURROGATE_OK;
}

static double determinant(const double *a) {
  return a[0] * (a[4] * a[8] - a[5] * a[7]) - a[1] * (a[3] * a[8] - a[5] * a[6]) + a[2] * (a[3] * a[7] - a[4] * a[6]);
}

/* What the program gave, in the caller's arrays and in double precision. */
static void collect(surrogate_atoms *c, const surrogate_system *s, surrogate_energies *result) {
  const float *energies = c->out[ENERGIES], *forces = c->out[FORCES], *virials = c->out[VIRIALS];
  const int32_t *species = c->in[SPECIES], *node = c->node;
  const int64_t all = s->num_atoms + s->num_ghosts;
  double virial[9] = {0}, energy = 0;
  for (int64_t i = 0; i < s->num_atoms; i++) {
    const double mine = (double)energies[i] + c->references[species[i]];
    energy += mine;
    if (result->atom_energies) result->atom_energies[i] = mine;
  }
  for (int64_t i = 0; i < all; i++) {
    const bool there = node[i] >= 0 && (i < s->num_atoms || !s->owners);
    for (int x = 0; x < 3 && result->forces; x++) result->forces[3 * i + x] = there ? (double)forces[3 * node[i] + x] : 0;
    for (int x = 0; x < 9; x++) {
      const double w = there ? ((double)virials[9 * node[i] + x] + (double)virials[9 * node[i] + x / 3 + 3 * (x % 3)]) / 2 : 0;
      virial[x] += w;
      if (result->atom_virials) result->atom_virials[9 * i + x] = w;
    }
  }
  const bool solid = s->cell && ((s->pbc[0] && s->pbc[1] && s->pbc[2]) || s->num_ghosts);
  const double volume = solid ? fabs(determinant(s->cell)) : 0;
  result->energy = energy;
  for (int x = 0; x < 9; x++) {
    result->virial[x] = virial[x];
    result->stress[x] = volume > 0 ? virial[x] / volume : NAN;
  }
}

/* -- running --------------------------------------------------------------------------------- */

static int check(const surrogate_atoms *c, const surrogate_system *s, const surrogate_energies *result) {
  if (!c) return sg_fail(SURROGATE_INVALID, "the potential is NULL");
  if (!s || s->struct_size != sizeof *s || !result || result->struct_size != sizeof *result)
    return sg_fail(SURROGATE_ABI,
                   "%s: a system and a result are needed whose struct_size is %zu and %zu, got %zu and %zu", c->name,
                   sizeof *s, sizeof *result, s ? s->struct_size : 0, result ? result->struct_size : 0);
  if (s->num_atoms < 0 || s->num_ghosts < 0 || s->num_atoms > INDEX_BITS || s->num_ghosts > INDEX_BITS - s->num_atoms)
    return sg_fail(SURROGATE_INVALID, "%s: %lld atoms and %lld ghosts", c->name, (long long)s->num_atoms,
                   (long long)s->num_ghosts);
  if (s->num_atoms + s->num_ghosts > 0 && (!s->positions || !s->numbers))
    return sg_fail(SURROGATE_INVALID, "%s: positions or numbers are NULL", c->name);
  for (int64_t i = 0; i < 3 * (s->num_atoms + s->num_ghosts); i++)
    if (!isfinite(s->positions[i]))
      return sg_fail(SURROGATE_INVALID, "the position of atom %lld is (%g, %g, %g), expected finite numbers of angstrom",
                     (long long)(i / 3), s->positions[i / 3 * 3], s->positions[i / 3 * 3 + 1], s->positions[i / 3 * 3 + 2]);
  return SURROGATE_OK;
}

int surrogate_atoms_run(surrogate_atoms *c, const surrogate_system *s, surrogate_energies *result) {
  int status = check(c, s, result), k = 0;
  if (status) return status;
  result->used_atoms = result->used_neighbors = result->capacity = 0;
  if (!s->num_atoms) { /* a process without atoms: nothing counts */
    result->energy = 0;
    for (int x = 0; x < 9; x++) result->virial[x] = result->stress[x] = 0;
    for (int64_t i = 0; i < 3 * s->num_ghosts && result->forces; i++) result->forces[i] = 0;
    for (int64_t i = 0; i < 9 * s->num_ghosts && result->atom_virials; i++) result->atom_virials[i] = 0;
    return SURROGATE_OK;
  }
  if ((status = find_pairs(c, s))) return status;
  int32_t *count = sg_scratch(&c->count, &c->count_bytes, (size_t)c->num_nodes * sizeof *count + 4);
  if (!count) return SURROGATE_MEMORY;
  memset(count, 0, (size_t)c->num_nodes * sizeof *count);
  for (size_t p = 0; p < c->pairs.count; p++) count[c->pairs.all[p].i]++, count[c->pairs.all[p].j]++;
  int64_t most = 0;
  for (int64_t i = 0; i < c->num_nodes; i++)
    if (count[i] > most) most = count[i];
  result->used_atoms = c->num_nodes;
  result->used_neighbors = most;
  status = choose(c, c->num_nodes, most, &k);
  if (!status) status = prepare(c, k);
  if (!status) status = fill(c, s, c->max_atoms[k], c->max_neighbors[k]);
  if (status) return status;
  result->capacity = k;
  status = surrogate_run(c->rungs[k].context, 1, (const void *const *)c->in, NULL, c->out, NULL);
  if (!status) collect(c, s, result);
  return status;
}
