/* The guard: which samples of a call lie outside what the surrogate was trained on. exporting/guard.py computes the
 * same and says what.
 *
 * Samples go in groups of LANES, an input of all of them side by side, so that one pass over the factor serves
 * them all. Nothing is allocated: the context brings the room.
 */
#if defined(__SSE__)
#include <xmmintrin.h>
#endif
#include <stdlib.h>
#include <string.h>

#include "sg_internal.h"

enum { LANES = 16, MOST = 8192 };
#define LARGE 1e30
#define SMALL 1e-31

typedef struct sg_guarded { /* an input of the function */
  int input;
  int features;     /* numbers of a sample, or means of its maps */
  int64_t block;    /* points of a map; 1 for columns */
  float *low, *high; /* of each feature, widened by the margin */
  int *index;       /* of each feature: its place in the vector, or -1 where another one has taken that */
  const float *weights; /* (rows, block): the share of each point in the mean of a map, 0 where it is ignored */
  int rows;
} sg_guarded;

struct sg_guard {
  int size; /* of the vector */
  float threshold;
  float *mean, *scale; /* 1 / standard deviation */
  const float *factor; /* (size, size) lower-triangular: the distance is |factor z| / sqrt(size) */
  int count, widest;
  sg_guarded *inputs;
};

/* -- parsing --------------------------------------------------------------------------------- */

static int damaged(const sg_bundle *b, const sg_function *f) {
  return sg_fail(SURROGATE_BUNDLE, "%s/manifest.json: describes the guard of %s improperly", b->directory, f->name);
}

static const sg_array *array_named(const sg_bundle *b, const sg_json *name) {
  for (int i = 0; name && name->kind == SG_STRING && i < b->num_guards; i++)
    if (!strcmp(b->guards[i].name, name->text) && b->guards[i].dtype == SURROGATE_FLOAT32) return &b->guards[i];
  return NULL;
}

/* Exactly `count` numbers that float holds. */
static bool numbers(const sg_json *list, int64_t count, double *values) {
  if (!list || list->kind != SG_ARRAY || list->count != (size_t)count) return false;
  for (const sg_json *n = list->child; n; n = n->next) {
    if (n->kind != SG_NUMBER || !(n->number >= -LARGE && n->number <= LARGE)) return false;
    *values++ = n->number;
  }
  return true;
}

static int64_t whole(const sg_json *v, int64_t most) {
  return v && v->kind == SG_NUMBER && v->number >= 0 && v->number <= (double)most ? (int64_t)v->number : -1;
}

static double magnitude(double x) { return x < 0 ? -x : x; }

static int parse_input(sg_bundle *b, sg_function *f, const sg_json *item, double margin, bool *taken, sg_guarded *g) {
  const sg_json *name = sg_json_get(item, "name"), *features = sg_json_get(item, "features");
  const sg_json *weights = sg_json_get(item, "weights");
  g->input = -1;
  for (int i = 0; name && name->kind == SG_STRING && i < f->num_inputs; i++)
    if (!strcmp(f->inputs[i].described.name, name->text)) g->input = i;
  g->block = whole(sg_json_get(item, "block"), (int64_t)1 << 40);
  if (g->input < 0 || g->block < 1 || !features || features->kind != SG_ARRAY || !features->count ||
      features->count > MOST || !weights || weights->kind != SG_STRING)
    return damaged(b, f);
  const surrogate_argument *a = &f->inputs[g->input].described;
  g->features = (int)features->count;
  if (a->dtype != SURROGATE_FLOAT32 || a->bytes % (sizeof(float) * (size_t)g->features) ||
      a->bytes / (sizeof(float) * (size_t)g->features) != (size_t)g->block)
    return damaged(b, f);
  if (*weights->text) {
    const sg_array *found = array_named(b, weights);
    if (!found || found->rank != 2 || found->shape[1] != g->block || found->shape[0] > g->features ||
        g->features % found->shape[0])
      return damaged(b, f);
    g->weights = (const float *)(const void *)found->data;
    g->rows = (int)found->shape[0];
  } else if (g->block != 1) {
    return damaged(b, f);
  }
  size_t count = (size_t)g->features;
  double *bounds = calloc(2 * count, sizeof *bounds);
  g->low = calloc(count, sizeof *g->low);
  g->high = calloc(count, sizeof *g->high);
  g->index = calloc(count, sizeof *g->index);
  int status = bounds && g->low && g->high && g->index ? SURROGATE_OK : sg_fail(SURROGATE_MEMORY, "there is no memory");
  if (!status && (!numbers(sg_json_get(item, "low"), g->features, bounds) ||
                  !numbers(sg_json_get(item, "high"), g->features, bounds + count)))
    status = damaged(b, f);
  const sg_json *feature = features->child;
  for (size_t i = 0; i < count && !status; i++, feature = feature->next) {
    double low = bounds[i], high = bounds[count + i], room = margin * (high - low);
    double rounding = (magnitude(low) > magnitude(high) ? magnitude(low) : magnitude(high)) / 4194304;
    if (room < rounding) room = rounding;
    g->low[i] = (float)(low - room);
    g->high[i] = (float)(high + room);
    int64_t place = whole(feature, f->guard->size - 1);
    if (place < 0) status = damaged(b, f);
    else if (taken[place]) g->index[i] = -1;
    else g->index[i] = (int)place, taken[place] = true;
  }
  free(bounds);
  return status;
}

int sg_guard_parse(sg_bundle *b, const sg_json *entry, sg_function *f) {
  const sg_json *item = sg_json_get(entry, "guard");
  if (!item || item->kind == SG_NULL) return SURROGATE_OK;
  const sg_json *list = sg_json_get(item, "inputs"), *mean = sg_json_get(item, "mean");
  const sg_array *factor = array_named(b, sg_json_get(item, "factor"));
  double threshold, margin;
  const sg_json *limit = sg_json_get(item, "threshold"), *widening = sg_json_get(item, "margin");
  if (!list || list->kind != SG_ARRAY || !list->count || list->count > (size_t)f->num_inputs || !mean ||
      mean->kind != SG_ARRAY || !mean->count || mean->count > MOST || !factor || factor->rank != 2 ||
      factor->shape[0] != (int64_t)mean->count || factor->shape[1] != factor->shape[0] || !limit ||
      limit->kind != SG_NUMBER || !((threshold = limit->number) >= 0 && threshold <= LARGE) || !widening || widening->kind != SG_NUMBER ||
      !((margin = widening->number) >= 0 && margin <= 1e6))
    return damaged(b, f);
  sg_guard *g = f->guard = calloc(1, sizeof *g);
  size_t size = mean->count;
  double *values = calloc(2 * size, sizeof *values);
  bool *taken = calloc(size, sizeof *taken);
  int status = g && values && taken ? SURROGATE_OK : sg_fail(SURROGATE_MEMORY, "there is no memory");
  if (!status) {
    g->size = (int)size;
    g->threshold = (float)threshold;
    g->factor = (const float *)(const void *)factor->data;
    g->mean = calloc(size, sizeof *g->mean);
    g->scale = calloc(size, sizeof *g->scale);
    g->inputs = calloc(list->count, sizeof *g->inputs);
    if (!g->mean || !g->scale || !g->inputs) status = sg_fail(SURROGATE_MEMORY, "there is no memory");
    else if (!numbers(mean, g->size, values) || !numbers(sg_json_get(item, "std"), g->size, values + size))
      status = damaged(b, f);
  }
  for (size_t i = 0; i < size && !status; i++) {
    if (!(values[size + i] >= SMALL)) status = damaged(b, f);
    g->mean[i] = (float)values[i];
    g->scale[i] = (float)(1 / values[size + i]);
  }
  for (const sg_json *in = list->child; in && !status; in = in->next) {
    sg_guarded *guarded = &g->inputs[g->count++];
    status = parse_input(b, f, in, margin, taken, guarded);
    if (guarded->features > g->widest) g->widest = guarded->features;
  }
  for (size_t i = 0; i < size && !status; i++)
    if (!taken[i]) status = damaged(b, f); /* part of the vector would be whatever lay in memory */
  free(values);
  free(taken);
  return status;
}

void sg_guard_free(sg_guard *g) {
  if (!g) return;
  for (int i = 0; i < g->count; i++) {
    free(g->inputs[i].low);
    free(g->inputs[i].high);
    free(g->inputs[i].index);
  }
  free(g->mean);
  free(g->scale);
  free(g->inputs);
  free(g);
}

size_t sg_guard_room(const sg_guard *g) {
  return g ? sizeof(float) * LANES * ((size_t)g->size + (size_t)g->widest) : 0;
}

double sg_guard_threshold(const sg_guard *g) { return (double)g->threshold; }

/* -- computing ------------------------------------------------------------------------------- */

#if defined(__GNUC__)
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(4)));
typedef int32_t masks __attribute__((vector_size(LANES * sizeof(int32_t)), aligned(4)));
#define AT(p) (*(lanes *)(void *)(p))
#define READ(p) (*(const lanes *)(const void *)(p))
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* squares[lane] += sum over rows of (factor z)². z: (size, LANES) */
INLINE void distances(const float *factor, int size, const float *z, float *squares) {
#if defined(__GNUC__)
  lanes total = {0};
  int i = 0;
  for (; i + 4 <= size; i += 4) { /* beyond the diagonal the rows hold zeros */
    lanes a = {0}, b = {0}, c = {0}, d = {0};
    const float *row = factor + (size_t)i * (size_t)size;
    for (int j = 0; j < i + 4; j++) {
      lanes x = READ(z + (size_t)j * LANES);
      a += row[j] * x;
      b += row[size + j] * x;
      c += row[2 * size + j] * x;
      d += row[3 * size + j] * x;
    }
    total += a * a + b * b + c * c + d * d;
  }
  for (; i < size; i++) {
    lanes a = {0};
    for (int j = 0; j <= i; j++) a += factor[(size_t)i * (size_t)size + (size_t)j] * READ(z + (size_t)j * LANES);
    total += a * a;
  }
  memcpy(squares, &total, sizeof total);
#else
  for (int lane = 0; lane < LANES; lane++) squares[lane] = 0;
  for (int i = 0; i < size; i++) {
    for (int lane = 0; lane < LANES; lane++) {
      float a = 0;
      for (int j = 0; j <= i; j++) a += factor[(size_t)i * (size_t)size + (size_t)j] * z[(size_t)j * LANES + lane];
      squares[lane] += a * a;
    }
  }
#endif
}

/* One sample alone, as a map is: the same sums without fifteen copies of it. z: (size, LANES), lane 0 */
INLINE float distance(const float *factor, int size, const float *z) {
  float total = 0;
  for (int i = 0; i < size; i++) {
    float a = 0;
    for (int j = 0; j <= i; j++) a += factor[(size_t)i * (size_t)size + (size_t)j] * z[(size_t)j * LANES];
    total += a * a;
  }
  return total;
}

/* Columns: raw (features, LANES) → range in bad, standardised in z. */
INLINE void columns(const sg_guard *g, const sg_guarded *in, const float *raw, float *z, int32_t *bad) {
#if defined(__GNUC__)
  masks out;
  memcpy(&out, bad, sizeof out);
  for (int i = 0; i < in->features; i++) {
    lanes x = READ(raw + (size_t)i * LANES);
    out |= ~((x >= in->low[i]) & (x <= in->high[i])); /* also what is not a number */
    int k = in->index[i];
    if (k >= 0) AT(z + (size_t)k * LANES) = (x - g->mean[k]) * g->scale[k];
  }
  memcpy(bad, &out, sizeof out);
#else
  for (int i = 0; i < in->features; i++)
    for (int lane = 0; lane < LANES; lane++) {
      float x = raw[(size_t)i * LANES + lane];
      bad[lane] |= !(x >= in->low[i] && x <= in->high[i]);
      int k = in->index[i];
      if (k >= 0) z[(size_t)k * LANES + lane] = (x - g->mean[k]) * g->scale[k];
    }
#endif
}

/* A map: whether a counted point leaves [low, high], and the mean less `center`. */
INLINE bool map(const float *x, const float *w, int64_t block, float low, float high, float center, float *mean) {
  float sum = 0;
  bool bad = false;
  int64_t i = 0;
#if defined(__GNUC__)
  lanes sums = {0};
  masks out = {0};
  for (; i + LANES <= block; i += LANES) {
    lanes v = READ(x + i), share = READ(w + i);
    masks counted = share > 0;
    out |= counted & ~((v >= low) & (v <= high));
    masks change;
    lanes difference = v - center;
    memcpy(&change, &difference, sizeof change);
    change &= counted; /* an ignored point may hold anything */
    memcpy(&difference, &change, sizeof change);
    sums += share * difference;
  }
  for (int lane = 0; lane < LANES; lane++) sum += sums[lane], bad |= out[lane] != 0;
#endif
  for (; i < block; i++) {
    if (!(w[i] > 0)) continue;
    bad |= !(x[i] >= low && x[i] <= high);
    sum += w[i] * (x[i] - center);
  }
  *mean = sum;
  return bad;
}

INLINE void group(const sg_guard *g, int64_t first, int64_t count, const void *const *inputs, float *z, int32_t *bad,
                  float *squares) {
  float *raw = z + (size_t)g->size * LANES;
  for (int k = 0; k < g->count; k++) {
    const sg_guarded *in = &g->inputs[k];
    const size_t sample = (size_t)in->features * (size_t)in->block;
    const float *from = (const float *)inputs[in->input] + (size_t)first * sample;
    if (!in->weights) {
      for (int lane = 0; lane < LANES; lane++) {
        const float *x = from + (size_t)(lane < count ? lane : count - 1) * sample;
        for (int i = 0; i < in->features; i++) raw[(size_t)i * LANES + lane] = x[i];
      }
      columns(g, in, raw, z, bad);
      continue;
    }
    for (int lane = 0; lane < count; lane++)
      for (int i = 0; i < in->features; i++) {
        const float *x = from + (size_t)lane * sample + (size_t)i * (size_t)in->block;
        const float *w = in->weights + (size_t)(i % in->rows) * (size_t)in->block;
        int place = in->index[i];
        float mean, center = place < 0 ? 0 : g->mean[place];
        if (map(x, w, in->block, in->low[i], in->high[i], center, &mean)) bad[lane] = 1;
        if (place >= 0) z[(size_t)place * LANES + lane] = mean * g->scale[place];
      }
  }
  if (count > 2) distances(g->factor, g->size, z, squares);
  else
    for (int lane = 0; lane < count; lane++) squares[lane] = distance(g->factor, g->size, z + lane);
}

static void group_plain(const sg_guard *g, int64_t first, int64_t count, const void *const *inputs, float *z, int32_t *bad,
                        float *squares) {
  group(g, first, count, inputs, z, bad, squares);
}

#if defined(__GNUC__) && defined(__x86_64__)
/* The same for processors with wider registers, three times as fast. */
__attribute__((target("avx2,fma"))) static void group_avx2(const sg_guard *g, int64_t first, int64_t count,
                                                           const void *const *inputs, float *z, int32_t *bad,
                                                           float *squares) {
  group(g, first, count, inputs, z, bad, squares);
}
#endif

static float root(float x) { /* libm is not linked to; Newton's rule from above is exact enough in double */
  if (!(x > 0) || x > 3e38f) return x; /* zero, infinite or not a number */
  double r = x > 1 ? (double)x : 1, before;
  do {
    before = r;
    r = 0.5 * (r + (double)x / r);
  } while (r < before);
  return (float)before;
}

void sg_guard_run(const sg_guard *g, int64_t samples, const void *const *inputs, void *room, int32_t *flags,
                  float *found) {
  void (*run)(const sg_guard *, int64_t, int64_t, const void *const *, float *, int32_t *, float *) = group_plain;
#if defined(__GNUC__) && defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) run = group_avx2;
#endif
#if defined(__SSE__)
  /* Inputs that are no numbers are what this is for: the caller's traps are held, and its flags kept. */
  const unsigned kept = _mm_getcsr();
  _mm_setcsr(kept | 0x1f80u);
#endif
  for (int64_t first = 0; first < samples; first += LANES) {
    int64_t count = samples - first < LANES ? samples - first : LANES;
    float squares[LANES];
    int32_t bad[LANES] = {0};
    memset(room, 0, sizeof(float) * LANES * (size_t)g->size); /* lanes that stay empty are computed along */
    run(g, first, count, inputs, room, bad, squares);
    for (int64_t lane = 0; lane < count; lane++) {
      float d = root(squares[lane] / (float)g->size);
      if (flags)
        flags[first + lane] = (bad[lane] ? SURROGATE_OUTSIDE_RANGE : 0) |
                              (d <= g->threshold ? 0 : SURROGATE_OUTSIDE_DISTRIBUTION);
      if (found) found[first + lane] = d;
    }
  }
#if defined(__SSE__)
  _mm_setcsr(kept);
#endif
}
