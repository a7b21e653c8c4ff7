/* libFuzzer target for what libsurrogate reads from a Bundle: the manifest, and what it says of the other files.
 *
 * The environment variable BUNDLE names a directory with the files of a small Bundle, on a memory file system. The input is
 * the manifest from behind its digest, which is made right here: whoever writes a malicious Bundle can do that.
 * A Bundle that is accepted must then bear being described and guarded. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sg_internal.h"

static void use(sg_bundle *b) {
  for (int k = 0; k < b->num_functions; k++) {
    sg_function *f = &b->functions[k];
    const void *inputs[64];
    size_t total = 0;
    bool small = f->num_inputs <= 64;
    for (int i = 0; i < f->num_inputs; i++) total += f->inputs[i].described.bytes;
    if (!f->guard || !small || total > 1 << 20) continue;
    for (int i = 0; i < f->num_inputs; i++) inputs[i] = calloc(17, f->inputs[i].described.bytes);
    int32_t flags[17];
    float distances[17];
    void *room = sg_allocate(sg_guard_room(f->guard));
    sg_guard_run(f->guard, 17, inputs, room, flags, distances); /* a whole group and a single one */
    free(room);
    for (int i = 0; i < f->num_inputs; i++) free((void *)inputs[i]);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static char path[4096];
  static const char begin[] = "{\n \"digest\": \"";
  const char *directory = getenv("BUNDLE"), *reason = NULL;
  sg_arena *arena = NULL;
  if (!directory) abort();
  sg_json_parse((const char *)data, size, &arena, &reason); /* without the digest before it */
  sg_arena_free(arena);
  char hex[65];
  sg_sha256 hash;
  sg_sha256_begin(&hash);
  sg_sha256_add(&hash, "{", 1);
  sg_sha256_add(&hash, data, size);
  sg_sha256_end(&hash, hex);
  snprintf(path, sizeof path, "%s/manifest.json", directory);
  FILE *file = fopen(path, "wb");
  if (!file || fprintf(file, "%s%s\",", begin, hex) < 0 || fwrite(data, 1, size, file) != size || fclose(file)) abort();
  sg_bundle bundle;
  int status = sg_bundle_read(directory, "cpu", &bundle);
  if (!status) use(&bundle);
  sg_bundle_free(&bundle);
  return 0;
}
