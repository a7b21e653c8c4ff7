/* Which shared library serves as the plugin: named by the caller, by the environment, or by what the Bundle was checked
 * with, which is then looked for in places that the Bundle has no say in. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sg_internal.h"

int sg_hash_file(const char *path, char hex[65]) {
  FILE *file = fopen(path, "rb");
  if (!file) return -1;
  static const size_t size = 1 << 20;
  unsigned char *block = malloc(size);
  sg_sha256 hash;
  sg_sha256_begin(&hash);
  for (size_t n; block && (n = fread(block, 1, size, file)) > 0;) sg_sha256_add(&hash, block, n);
  int bad = !block || ferror(file);
  sg_sha256_end(&hash, hex);
  free(block);
  fclose(file);
  return bad ? -1 : 0;
}

/* directory/name if it is there; the caller frees it. */
static char *join(const char *directory, size_t size, const char *name) {
  char *path = malloc(size + strlen(name) + 2);
  if (!path) return NULL;
  memcpy(path, directory, size);
  path[size] = '/';
  strcpy(path + size + 1, name);
  FILE *file = fopen(path, "rb");
  if (file) {
    fclose(file);
    return path;
  }
  free(path);
  return NULL;
}

static char *search(const char *name) {
  char *found = NULL;
  for (const char *at = getenv("SURROGATE_PLUGIN_PATH"); at && *at && !found;) {
    size_t size = strcspn(at, ":");
    if (size) found = join(at, size, name);
    at += size + (at[size] == ':');
  }
#ifdef SURROGATE_PLUGIN_DIR
  if (!found) found = join(SURROGATE_PLUGIN_DIR, strlen(SURROGATE_PLUGIN_DIR), name);
#endif
  Dl_info info;
  if (!found && dladdr((void *)(uintptr_t)surrogate_abi_version, &info) && info.dli_fname) {
    const char *slash = strrchr(info.dli_fname, '/');
    if (slash) found = join(info.dli_fname, (size_t)(slash - info.dli_fname), name);
  }
  return found;
}

const sg_backend *const sg_backends[SG_BACKENDS] = {[SG_PJRT] = &sg_pjrt, [SG_ONNX] = &sg_onnx};

static const char *set(const char *text) { return text && *text ? text : NULL; }

static int place_of(const char *name) {
  for (int i = 0; i < SG_BACKENDS; i++)
    if (!strcmp(sg_backends[i]->name, name)) return i;
  return -1;
}

/* A bare name would be looked up among the system's libraries: a path is meant. */
static char *as_path(const char *source) {
  char *path = malloc(strlen(source) + 3);
  if (path) strcat(strcpy(path, strchr(source, '/') ? "" : "./"), source);
  return path;
}

/* The backend that a shared library is a plugin of, or -1 for one that is none or cannot be loaded: that is told later. */
static int backend_of(const char *source) {
  char *path = as_path(source);
  void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL; /* stays: plugins are never unloaded */
  int found = -1;
  for (int i = 0; library && i < SG_BACKENDS && found < 0; i++)
    if (dlsym(library, sg_backends[i]->symbol)) found = i;
  free(path);
  return found;
}

int sg_choose_backend(const sg_bundle *bundle, const char *platform, const char *given, const char *plugin, int *chosen) {
  const char *name = set(given) ? given : set(getenv("SURROGATE_BACKEND"));
  if (name) {
    if ((*chosen = place_of(name)) >= 0) return SURROGATE_OK;
    return sg_fail(SURROGATE_INVALID, "there is no backend '%s': there are %s and %s", name, sg_backends[0]->name,
                   sg_backends[1]->name);
  }
  const char *source = set(plugin) ? plugin : set(getenv("SURROGATE_PLUGIN"));
  const sg_json *recorded = sg_json_get(sg_json_get(bundle->manifest, "backend"), platform);
  *chosen = source ? backend_of(source) : recorded && recorded->kind == SG_STRING ? place_of(recorded->text) : -1;
  for (int i = 0; i < SG_BACKENDS && *chosen < 0; i++)
    if (bundle->functions[0].num_programs_of[i]) *chosen = i;
  return SURROGATE_OK;
}

void sg_find_traps(void *library, sg_traps *traps) {
  *(void **)&traps->hold = dlsym(library, "feholdexcept");
  *(void **)&traps->release = dlsym(library, "fesetenv");
  if (!traps->hold || !traps->release) traps->hold = NULL, traps->release = NULL;
}

int sg_find_plugin(const sg_bundle *bundle, const sg_backend *backend, const char *platform, const char *given,
                   char **plugin) {
  const char *source = set(given);
  if (!source && backend->variable) source = set(getenv(backend->variable));
  if (!source) source = set(getenv("SURROGATE_PLUGIN"));
  if (source) {
    if (!(*plugin = as_path(source))) return sg_fail(SURROGATE_MEMORY, "there is no memory");
    return SURROGATE_OK;
  }
  const sg_json *record = sg_json_get(sg_json_get(bundle->manifest, backend->record), platform);
  const sg_json *file = sg_json_get(record, "file"), *sha = sg_json_get(record, "sha256");
  const sg_json *package = sg_json_get(record, "package"), *version = sg_json_get(record, "version");
  if (!file || file->kind != SG_STRING || !sha || sha->kind != SG_STRING || !*file->text || file->text[0] == '.' ||
      strchr(file->text, '/'))
    return sg_fail(SURROGATE_PLUGIN, "no plugin for %s: give options.plugin or set SURROGATE_PLUGIN to its path",
                   platform);
  bool named = package && package->kind == SG_STRING && *package->text && version && version->kind == SG_STRING;
  *plugin = search(file->text);
  if (!*plugin)
    return sg_fail(SURROGATE_PLUGIN,
                   "no plugin for %s: set SURROGATE_PLUGIN to the path of %s%s%s%s%s%s, or SURROGATE_PLUGIN_PATH to "
                   "its directory",
                   platform, file->text, named ? " (of " : "", named ? package->text : "", named ? " " : "",
                   named ? version->text : "", named ? ")" : "");
  char hex[65];
  if (sg_hash_file(*plugin, hex) || strcmp(hex, sha->text))
    return sg_fail(SURROGATE_PLUGIN,
                   "%s is not the plugin that the Bundle was checked with (its SHA-256 is another); set "
                   "SURROGATE_PLUGIN to use it all the same",
                   *plugin);
  return SURROGATE_OK;
}
