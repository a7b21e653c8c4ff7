/* Compiled programs kept from one process to the next.
 *
 * An entry is a file NAME.bin of a directory that belongs to the caller and that nobody else can write: a line that says
 * what it is, its whole key, the SHA-256 of its content, the content. The key is a hash of all that decides what a
 * plugin compiles: the plugin's bytes, this processor, the compile options, the program. Whatever is not as it should
 * be is compiled again and replaced; it is never an error, since the cache only saves time. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "sg_internal.h"

#define MAGIC "surrogate executable 1\n"
#define HEAD (sizeof MAGIC - 1 + 64 + 64)
#define MAX_ENTRY ((size_t)4 << 30)

struct sg_cache {
  pthread_mutex_t lock; /* of what follows it */
  int found, stored;
  char note[256];
  char report[PATH_MAX + 400];
  char plugin[65]; /* hash of the plugin, once it is known */
  int folder;
  char path[PATH_MAX];
};

/* -- the directory --------------------------------------------------------------------------- */

static int unusable(const char *path, const char *why) {
  return sg_fail(SURROGATE_INVALID, "the cache directory %s cannot be used: %s", path, why);
}

static bool others_can_write(const struct stat *status) {
  return status->st_uid != geteuid() || (status->st_mode & (S_IWGRP | S_IWOTH));
}

/* Make every directory of the path that is not there, for its owner alone. */
static int make_path(char *path) {
  for (char *at = path + 1;; at++) {
    if (*at && *at != '/') continue;
    char end = *at;
    *at = 0;
    int bad = mkdir(path, 0700) && errno != EEXIST;
    *at = end;
    if (bad) return -1;
    if (!end) return 0;
  }
}

int sg_cache_open(const char *choice, sg_cache **result) {
  *result = NULL;
  if (!choice) choice = getenv("SURROGATE_CACHE");
  if (!choice || !*choice || !strcmp(choice, "off") || !strcmp(choice, "0")) return SURROGATE_OK;
  sg_cache *cache = calloc(1, sizeof *cache);
  if (!cache || pthread_mutex_init(&cache->lock, NULL)) {
    free(cache);
    return sg_fail(SURROGATE_MEMORY, "there is no memory");
  }
  int size = -1, status = SURROGATE_OK;
  const char *cached = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
  cache->folder = -1;
  if (strchr(choice, '/')) size = snprintf(cache->path, sizeof cache->path, "%s", choice);
  else if (strcmp(choice, "user") && strcmp(choice, "1")) status = unusable(choice, "it is neither \"user\", \"off\" nor a path");
  else if (cached && *cached == '/') size = snprintf(cache->path, sizeof cache->path, "%s/surrogate/executables", cached);
  else if (home && *home == '/') size = snprintf(cache->path, sizeof cache->path, "%s/.cache/surrogate/executables", home);
  else status = unusable(choice, "neither XDG_CACHE_HOME nor HOME says where it is");
  if (!status && (size < 1 || (size_t)size >= sizeof cache->path)) status = unusable(choice, "its path is too long");
  struct stat folder;
  if (!status && make_path(cache->path)) status = unusable(cache->path, strerror(errno));
  if (!status && (cache->folder = open(cache->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
    status = unusable(cache->path, strerror(errno));
  if (!status && (fstat(cache->folder, &folder) || others_can_write(&folder)))
    status = unusable(cache->path, "it is not yours alone to write; what it holds would be run as machine code");
  if (status) sg_cache_close(cache);
  else *result = cache;
  return status;
}

void sg_cache_close(sg_cache *cache) {
  if (!cache) return;
  if (cache->folder >= 0) close(cache->folder);
  pthread_mutex_destroy(&cache->lock);
  free(cache);
}

void sg_cache_note(sg_cache *cache, const char *format, ...) {
  char fresh[sizeof cache->note];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(fresh, sizeof fresh, format, arguments);
  va_end(arguments);
  pthread_mutex_lock(&cache->lock);
  memcpy(cache->note, fresh, sizeof fresh);
  pthread_mutex_unlock(&cache->lock);
}

const char *sg_cache_report(sg_cache *cache) {
  if (!cache) return "off";
  pthread_mutex_lock(&cache->lock);
  snprintf(cache->report, sizeof cache->report, "%s: %d found, %d stored%s%s", cache->path, cache->found, cache->stored,
           *cache->note ? "; " : "", cache->note);
  pthread_mutex_unlock(&cache->lock);
  return cache->report;
}

/* -- keys ------------------------------------------------------------------------------------ */

static void add_text(sg_sha256 *hash, const char *text) {
  sg_sha256_add(hash, text ? text : "", text ? strlen(text) + 1 : 1);
}

/* Model and features of the processor, and how many of it may be used: a program is compiled for that. */
static void add_processor(sg_sha256 *hash) {
  static const char *const lines[] = {"vendor_id", "cpu family", "model", "stepping", "flags", "Features", "CPU part"};
  static const char *const variables[] = {"XLA_FLAGS", "PJRT_NPROC", "NPROC", "OMP_NUM_THREADS"};
  struct utsname machine;
  if (!uname(&machine)) add_text(hash, machine.machine);
  FILE *file = fopen("/proc/cpuinfo", "r");
  char line[8192];
  while (file && fgets(line, sizeof line, file) && *line != '\n') /* the first processor ends with an empty line */
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
      if (!strncmp(line, lines[i], strlen(lines[i]))) add_text(hash, line);
  if (file) fclose(file);
  cpu_set_t usable;
  CPU_ZERO(&usable);
  snprintf(line, sizeof line, "%d", sched_getaffinity(0, sizeof usable, &usable) ? -1 : CPU_COUNT(&usable));
  add_text(hash, line);
  for (size_t i = 0; i < sizeof variables / sizeof *variables; i++) add_text(hash, getenv(variables[i]));
}

/* The hash of a file of hundreds of megabytes takes longer than all else: it is kept under what tells that the file is
 * the same, its inode and the times of its last changes. */
static int plugin_hash(sg_cache *cache, const char *plugin, char hex[65]) {
  struct stat status;
  char known[65], text[256];
  sg_sha256 hash;
  if (stat(plugin, &status)) return -1;
  snprintf(text, sizeof text, "%lld %lld %lld %lld.%09ld %lld.%09ld", (long long)status.st_dev, (long long)status.st_ino,
           (long long)status.st_size, (long long)status.st_mtim.tv_sec, (long)status.st_mtim.tv_nsec,
           (long long)status.st_ctim.tv_sec, (long)status.st_ctim.tv_nsec);
  sg_sha256_begin(&hash);
  add_text(&hash, "plugin");
  add_text(&hash, plugin);
  add_text(&hash, text);
  sg_sha256_end(&hash, known);
  size_t size = 0;
  char *stored = sg_cache_get(cache, known, &size);
  bool good = stored && size == 64;
  if (good) memcpy(hex, stored, 64), hex[64] = 0;
  free(stored);
  pthread_mutex_lock(&cache->lock);
  if (good) cache->found--; /* only programs are counted */
  pthread_mutex_unlock(&cache->lock);
  if (good) return 0;
  if (sg_hash_file(plugin, hex)) return -1;
  /* A file that was written this very second might be written again without its times showing it. */
  if (time(NULL) - status.st_ctim.tv_sec > 2) {
    sg_cache_put(cache, known, hex, 64);
    pthread_mutex_lock(&cache->lock);
    cache->stored--;
    pthread_mutex_unlock(&cache->lock);
  }
  return 0;
}

int sg_cache_key(sg_cache *cache, const char *plugin, const char *version, const void *options, size_t options_size,
                 const void *code, size_t size, char key[65]) {
  char of_plugin[65], length[32];
  pthread_mutex_lock(&cache->lock);
  memcpy(of_plugin, cache->plugin, sizeof of_plugin);
  pthread_mutex_unlock(&cache->lock);
  if (!*of_plugin) {
    if (plugin_hash(cache, plugin, of_plugin)) {
      sg_cache_note(cache, "%s cannot be read", plugin);
      return -1;
    }
    pthread_mutex_lock(&cache->lock);
    memcpy(cache->plugin, of_plugin, sizeof of_plugin);
    pthread_mutex_unlock(&cache->lock);
  }
  sg_sha256 hash;
  sg_sha256_begin(&hash);
  add_text(&hash, MAGIC);
  add_text(&hash, of_plugin);
  add_text(&hash, version);
  add_processor(&hash);
  snprintf(length, sizeof length, "%zu %zu", options_size, size);
  add_text(&hash, length);
  sg_sha256_add(&hash, options, options_size);
  sg_sha256_add(&hash, code, size);
  sg_sha256_end(&hash, key);
  return 0;
}

/* -- entries --------------------------------------------------------------------------------- */

static void file_name(const char *key, char name[40]) { snprintf(name, 40, "%.32s.bin", key); }

/* The whole entry, or NULL with `why`; that it is not there is no reason. */
static unsigned char *read_entry(int handle, size_t *size, const char **why) {
  struct stat status;
  unsigned char *data = NULL;
  if (fstat(handle, &status) || !S_ISREG(status.st_mode) || others_can_write(&status)) *why = "is not your own file";
  else if (status.st_size < (off_t)HEAD || (uint64_t)status.st_size > MAX_ENTRY) *why = "is damaged";
  else if (!(data = malloc((size_t)status.st_size))) *why = "is too large for memory";
  if (*why) return NULL;
  size_t total = 0;
  while (total < (size_t)status.st_size) {
    ssize_t count = read(handle, data + total, (size_t)status.st_size - total);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) break;
    total += (size_t)count;
  }
  *size = total;
  return data;
}

void *sg_cache_get(sg_cache *cache, const char *key, size_t *size) {
  char name[40], hex[65];
  const char *why = NULL;
  size_t total = 0;
  file_name(key, name);
  int handle = openat(cache->folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (handle < 0) {
    if (errno != ENOENT) sg_cache_note(cache, "%s cannot be read: %s", name, strerror(errno));
    return NULL;
  }
  unsigned char *data = read_entry(handle, &total, &why);
  close(handle);
  if (data) {
    sg_sha256 hash;
    sg_sha256_begin(&hash);
    if (total >= HEAD) sg_sha256_add(&hash, data + HEAD, total - HEAD);
    sg_sha256_end(&hash, hex);
    if (total < HEAD || memcmp(data, MAGIC, sizeof MAGIC - 1) || memcmp(data + sizeof MAGIC - 1, key, 64) ||
        memcmp(data + sizeof MAGIC - 1 + 64, hex, 64))
      why = "is damaged";
  }
  if (why) {
    sg_cache_note(cache, "%s %s, and was not used", name, why);
    free(data);
    return NULL;
  }
  *size = total - HEAD;
  memmove(data, data + HEAD, *size);
  pthread_mutex_lock(&cache->lock);
  cache->found++;
  pthread_mutex_unlock(&cache->lock);
  return data;
}

static bool write_all(int handle, const void *data, size_t size) {
  for (size_t total = 0; total < size;) {
    ssize_t count = write(handle, (const char *)data + total, size - total);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    total += (size_t)count;
  }
  return true;
}

/* Written beside and moved into place: a reader finds a whole entry or none. */
void sg_cache_put(sg_cache *cache, const char *key, const void *data, size_t size) {
  static _Atomic unsigned number;
  char name[40], part[80], hex[65];
  sg_sha256 hash;
  file_name(key, name);
  snprintf(part, sizeof part, ".%.32s.%ld.%u", key, (long)getpid(), number++);
  sg_sha256_begin(&hash);
  sg_sha256_add(&hash, data, size);
  sg_sha256_end(&hash, hex);
  int handle = openat(cache->folder, part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  bool good = handle >= 0 && write_all(handle, MAGIC, sizeof MAGIC - 1) && write_all(handle, key, 64) &&
              write_all(handle, hex, 64) && write_all(handle, data, size);
  if (handle >= 0 && close(handle)) good = false;
  if (good && renameat(cache->folder, part, cache->folder, name)) good = false;
  if (!good) {
    sg_cache_note(cache, "%s cannot be written: %s", name, strerror(errno));
    if (handle >= 0) unlinkat(cache->folder, part, 0);
    return;
  }
  pthread_mutex_lock(&cache->lock);
  cache->stored++;
  pthread_mutex_unlock(&cache->lock);
}
