/* mutate BUNDLE ROUNDS SEED: change the manifest at random, make its digest right again, open; built with sanitizers.
 *
 * Opening must fail as a damaged bundle, or get as far as the plugin, which is not there. Afterwards the manifest is
 * as it was. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sg_internal.h"

static uint64_t state;

static uint64_t draw(uint64_t below) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state % below;
}

static void write_all(const char *path, const char *data, size_t size) {
  FILE *file = fopen(path, "wb");
  if (!file || fwrite(data, 1, size, file) != size || fclose(file)) exit(3);
}

int main(int count, char **words) {
  if (count != 4) return 2;
  static const char *const pieces[] = {"{", "}", "[", "]", ",", ":", "\"", "null", "-1", "0", "1e308", "0.5", "true",
                                       "\"x\"", "99999999999999999999", "[[[[", "\\u", "\"shape\"", "{}", "[]"};
  const size_t head = 14 + 64 + 2; /* of the digest, up to what it covers */
  long rounds = atol(words[2]), reached = 0;
  char path[4096], hex[65];
  static char original[1 << 22], text[1 << 22];
  state = (uint64_t)atol(words[3]) * 2654435761u + 88172645463325252u;
  snprintf(path, sizeof path, "%s/manifest.json", words[1]);
  FILE *file = fopen(path, "rb");
  size_t size = file ? fread(original, 1, sizeof original, file) : 0;
  if (size < head) return 3;
  fclose(file);
  surrogate_options options = {.struct_size = sizeof options, .plugin = "/nowhere/plugin.so"};
  for (long round = 0; round < rounds; round++) {
    size_t length = size;
    memcpy(text, original, size);
    for (uint64_t change = 0, changes = 1 + draw(3); change < changes; change++) {
      size_t at = head + draw(length - head), room = length - at;
      switch (draw(5)) {
        case 0: text[at] ^= (char)(1 << draw(8)); break;
        case 1: text[at] = "0123456789"[draw(10)]; break;
        case 2: { /* remove */
          size_t gone = 1 + draw(room < 40 ? room : 40);
          memmove(text + at, text + at + gone, room - gone);
          length -= gone;
          break;
        }
        case 3: { /* insert */
          const char *piece = pieces[draw(sizeof pieces / sizeof *pieces)];
          size_t more = strlen(piece);
          memmove(text + at + more, text + at, room);
          memcpy(text + at, piece, more);
          length += more;
          break;
        }
        default: { /* repeat a part from elsewhere */
          size_t from = head + draw(length - head), part = 1 + draw(60);
          if (from + part > length) part = length - from;
          if (part > room) part = room;
          memmove(text + at, text + from, part);
        }
      }
      if (length <= head + 1) break;
    }
    sg_sha256 hash;
    sg_sha256_begin(&hash);
    sg_sha256_add(&hash, "{", 1);
    sg_sha256_add(&hash, text + head, length - head);
    sg_sha256_end(&hash, hex);
    memcpy(text + 14, hex, 64);
    write_all(path, text, length);
    surrogate_model *model;
    int status = surrogate_open(SURROGATE_ABI_VERSION, words[1], &options, &model);
    if (status != SURROGATE_BUNDLE && status != SURROGATE_PLUGIN && status != SURROGATE_ABI && status != SURROGATE_INVALID) {
      fprintf(stderr, "round %ld: status %d, %s\n", round, status, surrogate_last_error());
      return 1;
    }
    reached += status == SURROGATE_PLUGIN;
  }
  write_all(path, original, size);
  printf("%ld\n", reached);
  return 0;
}
