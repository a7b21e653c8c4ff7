/* Reading a Bundle: every file is verified before anything but the manifest is parsed, and that after its digest. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sg_internal.h"

#define MANIFEST "manifest.json"
#define BEGIN "{\n \"digest\": \""
#define MAX_MANIFEST ((size_t)16 << 20)
#define MAX_BYTES ((size_t)8 << 30)
#define MAX_FILES 1000
#define MAX_BATCH 1000000
#define MAX_SAMPLE ((double)((int64_t)1 << 40)) /* bytes of one argument's sample */

static int damaged(const sg_bundle *b, const char *what, const char *why) {
  return sg_fail(SURROGATE_BUNDLE, "%s/%s: %s", b->directory, what, why);
}

static int no_memory(const sg_bundle *b) { return sg_fail(SURROGATE_MEMORY, "%s: there is no memory for it", b->directory); }

/* Letters, digits, '.', '_' and '-', not beginning with a dot: no way out of the directory. */
static bool plain_name(const char *name) {
  size_t size = strlen(name);
  if (!size || size > 128 || name[0] == '.' || name[0] == '_' || name[0] == '-') return false;
  return strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") == size;
}

static bool hexadecimal(const char *text, size_t size) {
  for (size_t i = 0; i < size; i++)
    if (!strchr("0123456789abcdef", text[i]) || !text[i]) return false;
  return true;
}

/* Read a plain file of the directory `folder` into aligned memory. `expected`: its size, or -1 for up to `limit`. */
static int read_file(const sg_bundle *b, int folder, const char *name, int64_t expected, size_t limit,
                     unsigned char **data, size_t *size) {
  struct stat status;
  /* O_NONBLOCK keeps a pipe of that name from hanging its reader. */
  int handle = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (handle < 0) {
    if (errno == ELOOP) return damaged(b, name, "is a link; a Bundle holds plain files only");
    if (errno == ENOENT) return damaged(b, name, "is missing");
    return damaged(b, name, strerror(errno));
  }
  int result = SURROGATE_OK;
  if (fstat(handle, &status) || !S_ISREG(status.st_mode)) {
    result = damaged(b, name, "is not a plain file");
  } else if (expected >= 0 && status.st_size != expected) {
    result = sg_fail(SURROGATE_BUNDLE, "%s/%s has %lld bytes where the manifest says %lld: it was changed or cut",
                     b->directory, name, (long long)status.st_size, (long long)expected);
  } else if (status.st_size < 0 || (uint64_t)status.st_size > limit) {
    result = damaged(b, name, "is larger than is allowed");
  } else if (!(*data = sg_allocate((size_t)status.st_size + 1))) {
    result = no_memory(b);
  } else {
    size_t total = 0, wanted = (size_t)status.st_size + 1; /* one more, so that growth since fstat shows */
    while (total < wanted) {
      ssize_t count = read(handle, *data + total, wanted - total);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) result = damaged(b, name, strerror(errno));
      if (count <= 0) break;
      total += (size_t)count;
    }
    if (!result && total != (size_t)status.st_size) result = damaged(b, name, "changed while it was read");
    *size = (size_t)status.st_size;
    if (result) {
      free(*data);
      *data = NULL;
    } else {
      (*data)[total] = 0;
    }
  }
  close(handle);
  return result;
}

/* The manifest begins with the digest of what follows; compare before parsing. */
static int read_manifest(sg_bundle *b, int folder) {
  static const size_t start = sizeof BEGIN - 1;
  unsigned char *data = NULL;
  char hex[65];
  int status = read_file(b, folder, MANIFEST, -1, MAX_MANIFEST, &data, &b->text_size);
  if (status) return status;
  b->text = (char *)data;
  if (b->text_size < start + 66 || memcmp(b->text, BEGIN, start) || memcmp(b->text + start + 64, "\",", 2) ||
      !hexadecimal(b->text + start, 64))
    return damaged(b, MANIFEST, "does not begin with its digest: it is damaged, or this is not a Bundle");
  sg_sha256 hash;
  sg_sha256_begin(&hash);
  sg_sha256_add(&hash, "{", 1);
  sg_sha256_add(&hash, b->text + start + 66, b->text_size - start - 66);
  sg_sha256_end(&hash, hex);
  if (memcmp(hex, b->text + start, 64)) return damaged(b, MANIFEST, "was changed or damaged: its digest is another");
  const char *reason = NULL;
  b->manifest = sg_json_parse(b->text, b->text_size, &b->arena, &reason);
  if (!b->manifest || b->manifest->kind != SG_OBJECT) return damaged(b, MANIFEST, reason ? reason : "is no JSON object");
  return SURROGATE_OK;
}

static const char *text_of(const sg_json *object, const char *key) {
  const sg_json *v = sg_json_get(object, key);
  return v && v->kind == SG_STRING ? v->text : NULL;
}

/* A whole number in [0, most], or -1. */
static int64_t whole_of(const sg_json *v, double most) {
  if (!v || v->kind != SG_NUMBER || !(v->number >= 0) || v->number > most || (double)(int64_t)v->number != v->number) return -1;
  return (int64_t)v->number;
}

static const sg_json *list_of(const sg_json *object, const char *key) {
  const sg_json *v = sg_json_get(object, key);
  return v && v->kind == SG_ARRAY ? v : NULL;
}

static int check_listing(const sg_bundle *b, int folder, const sg_json *table) {
  int copy = dup(folder), status = SURROGATE_OK;
  DIR *listing = copy < 0 ? NULL : fdopendir(copy);
  if (!listing) {
    if (copy >= 0) close(copy);
    return damaged(b, ".", strerror(errno));
  }
  for (struct dirent *item; !status && (item = readdir(listing));) {
    const char *name = item->d_name;
    if (!strcmp(name, ".") || !strcmp(name, "..") || !strcmp(name, MANIFEST)) continue;
    if (!sg_json_get(table, name)) status = damaged(b, name, "is not named by the manifest");
  }
  closedir(listing);
  return status;
}

static int read_files(sg_bundle *b, int folder) {
  const sg_json *table = sg_json_get(b->manifest, "files");
  size_t total = 0;
  if (!table || table->kind != SG_OBJECT || table->count > MAX_FILES)
    return damaged(b, MANIFEST, "has no proper table of files");
  for (const sg_json *item = table->child; item; item = item->next) {
    const char *digest = text_of(item, "sha256");
    int64_t size = whole_of(sg_json_get(item, "size"), (double)MAX_BYTES);
    if (!plain_name(item->key) || !strcmp(item->key, MANIFEST))
      return damaged(b, MANIFEST, "names a file that it may not name");
    if (!digest || strlen(digest) != 64 || !hexadecimal(digest, 64) || size < 0)
      return damaged(b, MANIFEST, "has no proper SHA-256 and size for a file");
    if ((total += (size_t)size) > MAX_BYTES) return damaged(b, MANIFEST, "names more bytes than are allowed");
  }
  int status = check_listing(b, folder, table);
  if (status) return status;
  if (!(b->files = calloc(table->count + 1, sizeof *b->files))) return no_memory(b);
  for (const sg_json *item = table->child; item; item = item->next) {
    sg_file *file = &b->files[b->num_files++];
    char hex[65];
    sg_sha256 hash;
    file->name = item->key;
    status = read_file(b, folder, file->name, whole_of(sg_json_get(item, "size"), (double)MAX_BYTES), MAX_BYTES,
                       &file->data, &file->size);
    if (status) return status;
    sg_sha256_begin(&hash);
    sg_sha256_add(&hash, file->data, file->size);
    sg_sha256_end(&hash, hex);
    if (strcmp(hex, text_of(item, "sha256")))
      return damaged(b, file->name, "was changed or damaged: its SHA-256 is not the manifest's");
  }
  return SURROGATE_OK;
}

static sg_file *find_file(const sg_bundle *b, const char *name) {
  for (int i = 0; name && i < b->num_files; i++)
    if (!strcmp(b->files[i].name, name)) return &b->files[i];
  return NULL;
}

static int dtype_of(const sg_json *object) {
  const char *text = text_of(object, "dtype");
  return !text ? -1 : !strcmp(text, "float32") ? SURROGATE_FLOAT32 : !strcmp(text, "int32") ? SURROGATE_INT32 : -1;
}

/* The shape under `key`, and the bytes of 4-byte elements it holds; false for anything improper. */
static bool shape_of(const sg_json *object, const char *key, int most, int *rank, int64_t *shape, size_t *bytes) {
  const sg_json *list = list_of(object, key);
  double size = 4;
  if (!list || list->count > (size_t)most) return false;
  *rank = 0;
  for (const sg_json *n = list->child; n; n = n->next) {
    int64_t length = whole_of(n, MAX_SAMPLE);
    if (length < 1 || (size *= (double)length) > MAX_SAMPLE) return false;
    shape[(*rank)++] = length;
  }
  *bytes = (size_t)size;
  return true;
}

/* The arrays that the list `key` of the manifest finds in a file. */
static int parse_arrays(sg_bundle *b, const char *key, const char *name, sg_array **arrays, int *count) {
  const sg_json *list = list_of(b->manifest, key);
  const sg_file *file = find_file(b, name);
  if (!list || !file) return damaged(b, MANIFEST, "lacks the table of its parameters or golden vectors");
  if (!(*arrays = calloc(list->count + 1, sizeof **arrays))) return no_memory(b);
  for (const sg_json *item = list->child; item; item = item->next) {
    sg_array *a = &(*arrays)[*count];
    int64_t offset = whole_of(sg_json_get(item, "offset"), (double)MAX_BYTES);
    int64_t size = whole_of(sg_json_get(item, "size"), (double)MAX_BYTES);
    a->name = text_of(item, "name");
    a->dtype = dtype_of(item);
    if (!a->name || a->dtype < 0 || !shape_of(item, "shape", SURROGATE_MAX_RANK + 1, &a->rank, a->shape, &a->bytes) ||
        size < 0 || (size_t)size != a->bytes || offset < 0 || offset % SG_ALIGNMENT || (size_t)offset > file->size ||
        a->bytes > file->size - (size_t)offset)
      return damaged(b, name, "does not hold the arrays that the manifest finds in it");
    a->data = file->data + offset;
    ++*count;
  }
  return SURROGATE_OK;
}

static const sg_array *find_array(const sg_array *arrays, int count, const char *name) {
  for (int i = 0; name && i < count; i++)
    if (!strcmp(arrays[i].name, name)) return &arrays[i];
  return NULL;
}

static int numbers(const sg_bundle *b, const sg_json *list, double **values, int *count) {
  if (!(*values = calloc(list->count + 1, sizeof **values))) return no_memory(b);
  for (const sg_json *n = list->child; n; n = n->next) {
    if (n->kind != SG_NUMBER) return damaged(b, MANIFEST, "has something else where numbers belong");
    (*values)[(*count)++] = n->number;
  }
  return SURROGATE_OK;
}

/* The golden array <function>/<direction>/<argument>, which must have `samples` samples of the argument. */
static const sg_array *find_golden(const sg_bundle *b, const char *function, bool output, const surrogate_argument *a,
                                   int64_t samples) {
  const char *middle = output ? "/output/" : "/input/";
  size_t head = strlen(function), body = strlen(middle);
  for (int i = 0; i < b->num_golden; i++) {
    const sg_array *g = &b->golden[i];
    if (strncmp(g->name, function, head) || strncmp(g->name + head, middle, body) || strcmp(g->name + head + body, a->name))
      continue;
    bool fits = g->dtype == a->dtype && g->rank == a->rank + 1 && g->shape[0] == samples &&
                !memcmp(g->shape + 1, a->shape, (size_t)a->rank * sizeof *a->shape);
    return fits ? g : NULL;
  }
  return NULL;
}

static int parse_argument(sg_bundle *b, const sg_json *item, const sg_function *f, bool output, sg_argument *argument) {
  surrogate_argument *a = &argument->described;
  const sg_json *dims = list_of(item, "dims"), *attrs = sg_json_get(item, "attrs");
  int rank = 0, status = SURROGATE_OK;
  a->struct_size = sizeof *a;
  a->name = text_of(item, "name");
  a->role = text_of(item, "role");
  a->units = text_of(item, "units");
  a->description = text_of(item, "description");
  a->dtype = dtype_of(item);
  if (!a->name || !a->role || !a->units || !a->description || a->dtype < 0 ||
      !shape_of(item, "shape", SURROGATE_MAX_RANK, &a->rank, a->shape, &a->bytes) || !dims ||
      dims->count != (size_t)a->rank)
    return damaged(b, MANIFEST, "describes an argument improperly");
  for (const sg_json *d = dims->child; d; d = d->next) {
    if (d->kind != SG_STRING) return damaged(b, MANIFEST, "describes an argument improperly");
    a->dims[rank++] = d->text;
  }
  a->level_units = text_of(attrs, "level_units");
  const sg_json *levels = list_of(attrs, "level");
  if (levels) {
    double *values = NULL;
    status = numbers(b, levels, &values, &a->num_levels);
    a->levels = values;
    if (status) return status;
  }
  if (!(argument->golden = find_golden(b, f->name, output, a, f->golden_samples)))
    return damaged(b, MANIFEST, "has no golden vector for an argument");
  if (!output) return status;
  const sg_json *tolerance = list_of(item, "tolerance");
  argument->block = whole_of(sg_json_get(item, "block"), MAX_SAMPLE);
  if (a->dtype != SURROGATE_FLOAT32 || !tolerance || !tolerance->count || argument->block < 1)
    return damaged(b, MANIFEST, "has no tolerance for an output");
  return numbers(b, tolerance, &argument->tolerance, &argument->num_tolerance);
}

static int parse_arguments(sg_bundle *b, const sg_json *entry, sg_function *f, bool output) {
  const sg_json *list = list_of(entry, output ? "outputs" : "inputs");
  if (!list || !list->count || list->count > 4096) return damaged(b, MANIFEST, "has a function without arguments");
  sg_argument **arguments = output ? &f->outputs : &f->inputs;
  int *count = output ? &f->num_outputs : &f->num_inputs, status = SURROGATE_OK;
  if (!(*arguments = calloc(list->count, sizeof **arguments))) return no_memory(b);
  for (const sg_json *item = list->child; item && !status; item = item->next)
    status = parse_argument(b, item, f, output, &(*arguments)[(*count)++]);
  return status;
}

/* The parameters that a program names, where it does not take all of its function's. */
static int parse_parameters(sg_bundle *b, const sg_json *list, sg_program *p) {
  if (!list) return SURROGATE_OK;
  if (list->kind != SG_ARRAY) return damaged(b, MANIFEST, "describes a program improperly");
  if (!(p->parameters = calloc(list->count + 1, sizeof *p->parameters))) return no_memory(b);
  for (const sg_json *item = list->child; item; item = item->next) {
    const sg_array *found = item->kind == SG_STRING ? find_array(b->parameters, b->num_parameters, item->text) : NULL;
    if (!found) return damaged(b, MANIFEST, "lacks a parameter of a program");
    p->parameters[p->num_parameters++] = found;
  }
  return SURROGATE_OK;
}

static int parse_programs(sg_bundle *b, const sg_json *entry, const char *platform, sg_function *f) {
  const sg_json *list = list_of(entry, "programs");
  if (!list) return damaged(b, MANIFEST, "has a function without programs");
  for (int k = 0; k < SG_BACKENDS; k++)
    if (!(f->programs_of[k] = calloc(list->count + 1, sizeof **f->programs_of))) return no_memory(b);
  int kept = 0;
  for (const sg_json *item = list->child; item; item = item->next) {
    const char *on = text_of(item, "platform"), *backend = text_of(item, "backend");
    int64_t batch = whole_of(sg_json_get(item, "batch"), MAX_BATCH);
    const sg_file *file = find_file(b, text_of(item, "file"));
    if (!on || !backend || batch < 1 || !file) return damaged(b, MANIFEST, "describes a program improperly");
    int which = 0;
    while (which < SG_BACKENDS && strcmp(backend, sg_backends[which]->name)) which++;
    if (strcmp(on, platform) || which == SG_BACKENDS) continue;
    int *count = &f->num_programs_of[which];
    sg_program *p = &f->programs_of[which][*count];
    if (*count && p[-1].batch >= batch)
      return damaged(b, MANIFEST, "has programs that are not in ascending order of batch");
    p->difference = calloc((size_t)f->num_outputs * 2, sizeof *p->difference);
    if (!p->difference || pthread_mutex_init(&p->lock, NULL)) {
      free(p->difference);
      return no_memory(b);
    }
    ++*count, kept++;
    p->function = f;
    int status = parse_parameters(b, sg_json_get(item, "parameters"), p);
    if (status) return status;
    p->allowed = p->difference + f->num_outputs;
    p->batch = batch;
    p->code = file->data;
    p->size = file->size;
    p->file = file->name;
  }
  if (!kept)
    return sg_fail(SURROGATE_INVALID, "%s has no programs for the platform %s", b->directory, platform);
  return SURROGATE_OK;
}

static int parse_function(sg_bundle *b, const sg_json *entry, const char *platform, sg_function *f) {
  const sg_json *parameters = list_of(entry, "parameters");
  f->name = text_of(entry, "name");
  f->golden_samples = whole_of(sg_json_get(entry, "golden_samples"), MAX_BATCH);
  if (!f->name || !parameters || f->golden_samples < 1) return damaged(b, MANIFEST, "describes a function improperly");
  int status = parse_arguments(b, entry, f, false);
  if (!status) status = parse_arguments(b, entry, f, true);
  if (!status) status = parse_programs(b, entry, platform, f);
  if (!status) status = sg_guard_parse(b, entry, f);
  if (status) return status;
  f->parameters = calloc(parameters->count + 1, sizeof *f->parameters);
  f->parameter_buffers = calloc(parameters->count + 1, sizeof *f->parameter_buffers);
  if (!f->parameters || !f->parameter_buffers) return no_memory(b);
  for (const sg_json *p = parameters->child; p; p = p->next) {
    const sg_array *found = p->kind == SG_STRING ? find_array(b->parameters, b->num_parameters, p->text) : NULL;
    if (!found) return damaged(b, MANIFEST, "lacks a parameter of a function");
    f->parameters[f->num_parameters++] = found;
  }
  return SURROGATE_OK;
}

static int parse(sg_bundle *b, const char *platform) {
  const char *kind = text_of(b->manifest, "kind");
  int64_t format = whole_of(sg_json_get(b->manifest, "format"), 1e6), abi = whole_of(sg_json_get(b->manifest, "abi"), 1e6);
  if (!kind || strcmp(kind, "bundle")) return damaged(b, MANIFEST, "is not that of a Bundle");
  if (format != 1 || abi < 1 || abi > SURROGATE_ABI_VERSION)
    return sg_fail(SURROGATE_ABI, "%s has format %lld and ABI %lld; this libsurrogate reads format 1 and ABI up to %d",
                   b->directory, (long long)format, (long long)abi, SURROGATE_ABI_VERSION);
  int status = parse_arrays(b, "parameters", "parameters.bin", &b->parameters, &b->num_parameters);
  if (!status) status = parse_arrays(b, "golden", "golden.bin", &b->golden, &b->num_golden);
  if (!status && sg_json_get(b->manifest, "guard"))
    status = parse_arrays(b, "guard", "guard.bin", &b->guards, &b->num_guards);
  const sg_json *grid = sg_json_get(b->manifest, "grid"), *list = list_of(b->manifest, "functions");
  static const char *const axes[] = {"latitude", "longitude"};
  for (int i = 0; i < 2 && !status; i++)
    if (list_of(grid, axes[i])) status = numbers(b, list_of(grid, axes[i]), &b->coordinates[i], &b->num_coordinates[i]);
  if (status) return status;
  if (!list || !list->count || list->count > 1000) return damaged(b, MANIFEST, "names no functions");
  if (!(b->functions = calloc(list->count, sizeof *b->functions))) return no_memory(b);
  for (const sg_json *entry = list->child; entry && !status; entry = entry->next)
    status = parse_function(b, entry, platform, &b->functions[b->num_functions++]);
  return status;
}

int sg_bundle_read(const char *directory, const char *platform, sg_bundle *b) {
  memset(b, 0, sizeof *b);
  if (!(b->directory = strdup(directory))) return sg_fail(SURROGATE_MEMORY, "there is no memory");
  int folder = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return sg_fail(SURROGATE_BUNDLE, "cannot open the Bundle %s: %s", directory, strerror(errno));
  int status = read_manifest(b, folder);
  if (!status) status = read_files(b, folder);
  close(folder);
  if (!status) status = parse(b, platform);
  return status;
}

int sg_bundle_choose(sg_bundle *b, int backend, const char *platform) {
  for (int k = 0; k < b->num_functions; k++) {
    sg_function *f = &b->functions[k];
    f->programs = f->programs_of[backend];
    f->num_programs = f->num_programs_of[backend];
    if (f->num_programs) continue;
    const char *other = "";
    for (int i = 0; i < SG_BACKENDS; i++)
      if (f->num_programs_of[i]) other = sg_backends[i]->name;
    return sg_fail(SURROGATE_INVALID, "%s has no program of '%s' for the backend %s on %s; there are some for %s",
                   b->directory, f->name, sg_backends[backend]->name, platform, other);
  }
  for (int i = 0; i < b->num_files; i++) { /* what is not used stays no longer in memory */
    sg_file *file = &b->files[i];
    bool used = !strcmp(file->name, "parameters.bin") || !strcmp(file->name, "golden.bin") ||
                !strcmp(file->name, "guard.bin");
    for (int k = 0; k < b->num_functions; k++)
      for (int p = 0; p < b->functions[k].num_programs; p++)
        used = used || (file->data && b->functions[k].programs[p].code == file->data);
    if (used) continue;
    free(file->data);
    file->data = NULL;
  }
  return SURROGATE_OK;
}

void sg_bundle_free(sg_bundle *b) {
  for (int k = 0; k < b->num_functions; k++) {
    sg_function *f = &b->functions[k];
    for (int i = 0; i < f->num_inputs; i++) free((void *)f->inputs[i].described.levels);
    for (int i = 0; i < f->num_outputs; i++) {
      free((void *)f->outputs[i].described.levels);
      free(f->outputs[i].tolerance);
    }
    for (int which = 0; which < SG_BACKENDS; which++) {
      for (int i = 0; i < f->num_programs_of[which]; i++) {
        free(f->programs_of[which][i].difference);
        free(f->programs_of[which][i].parameters);
        pthread_mutex_destroy(&f->programs_of[which][i].lock);
      }
      free(f->programs_of[which]);
    }
    sg_guard_free(f->guard);
    free(f->inputs);
    free(f->outputs);
    free(f->parameters);
    free(f->parameter_buffers);
  }
  for (int i = 0; i < b->num_files; i++) free(b->files[i].data);
  free(b->functions);
  free(b->files);
  free(b->parameters);
  free(b->golden);
  free(b->guards);
  free(b->coordinates[0]);
  free(b->coordinates[1]);
  sg_arena_free(b->arena);
  free(b->text);
  free(b->directory);
  memset(b, 0, sizeof *b);
}
