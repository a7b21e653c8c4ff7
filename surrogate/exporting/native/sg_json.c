/* A strict JSON reader (RFC 8259) for the manifest: bounded depth, no key twice, no locale. */
#include <stdlib.h>
#include <string.h>

#include "sg_internal.h"

enum { DEPTH = 64, CHUNK = 1 << 16, MEMBERS = 10000 };

struct sg_arena {
  sg_arena *before;
  size_t used, size;
  max_align_t data[];
};

typedef struct reader {
  const char *at, *end;
  sg_arena *arena;
  const char *reason;
} reader;

void sg_arena_free(sg_arena *arena) {
  while (arena) {
    sg_arena *before = arena->before;
    free(arena);
    arena = before;
  }
}

static void *take(reader *r, size_t size) {
  size = (size + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
  if (!r->arena || r->arena->size - r->arena->used < size) {
    size_t room = size > CHUNK ? size : CHUNK;
    sg_arena *fresh = malloc(sizeof *fresh + room);
    if (!fresh) {
      r->reason = "there is no memory for it";
      return NULL;
    }
    fresh->before = r->arena;
    fresh->used = 0;
    fresh->size = room;
    r->arena = fresh;
  }
  void *result = (char *)r->arena->data + r->arena->used;
  r->arena->used += size;
  return result;
}

static bool refuse(reader *r, const char *reason) {
  if (!r->reason) r->reason = reason;
  return false;
}

static void skip(reader *r) {
  while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r')) r->at++;
}

static bool accept(reader *r, char c) {
  skip(r);
  if (r->at >= r->end || *r->at != c) return false;
  r->at++;
  return true;
}

static int hex4(reader *r) {
  int value = 0;
  if (r->end - r->at < 4) return -1;
  for (int i = 0; i < 4; i++) {
    char c = *r->at++;
    int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

static char *put_utf8(char *to, unsigned code) {
  if (code < 0x80) {
    *to++ = (char)code;
  } else if (code < 0x800) {
    *to++ = (char)(0xc0 | code >> 6);
    *to++ = (char)(0x80 | (code & 0x3f));
  } else if (code < 0x10000) {
    *to++ = (char)(0xe0 | code >> 12);
    *to++ = (char)(0x80 | (code >> 6 & 0x3f));
    *to++ = (char)(0x80 | (code & 0x3f));
  } else {
    *to++ = (char)(0xf0 | code >> 18);
    *to++ = (char)(0x80 | (code >> 12 & 0x3f));
    *to++ = (char)(0x80 | (code >> 6 & 0x3f));
    *to++ = (char)(0x80 | (code & 0x3f));
  }
  return to;
}

/* After the opening quote. Decoded text is never longer than its spelling. */
static const char *string(reader *r) {
  const char *close = r->at;
  while (close < r->end && *close != '"') close += *close == '\\' ? 2 : 1;
  if (close >= r->end) {
    refuse(r, "a string does not end");
    return NULL;
  }
  char *text = take(r, (size_t)(close - r->at) + 1), *to = text;
  if (!text) return NULL;
  while (r->at < close) {
    unsigned char c = (unsigned char)*r->at++;
    if (c < 0x20) {
      refuse(r, "a control character in a string");
      return NULL;
    }
    if (c != '\\') {
      *to++ = (char)c;
      continue;
    }
    static const char from[] = "\"\\/bfnrt", into[] = "\"\\/\b\f\n\r\t";
    char escape = *r->at++;
    const char *plain = escape ? strchr(from, escape) : NULL;
    if (plain) {
      *to++ = into[plain - from];
      continue;
    }
    int code = escape == 'u' ? hex4(r) : -1;
    if (code >= 0xd800 && code < 0xdc00 && r->end - r->at > 6 && r->at[0] == '\\' && r->at[1] == 'u') {
      r->at += 2;
      int low = hex4(r);
      code = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00) : -1;
    } else if (code >= 0xd800 && code < 0xe000) {
      code = -1;
    }
    if (code <= 0 || r->at > close) {
      refuse(r, "a string holds a bad escape");
      return NULL;
    }
    to = put_utf8(to, (unsigned)code);
  }
  *to = 0;
  r->at = close + 1;
  return text;
}

static bool digit(const reader *r) { return r->at < r->end && *r->at >= '0' && *r->at <= '9'; }

/* strtod would follow the caller's locale. Whole numbers below 2^53 come out exactly, others to some 15 digits. */
static bool number(reader *r, double *result) {
  bool negative = *r->at == '-';
  if (negative) r->at++;
  if (!digit(r) || (*r->at == '0' && r->end - r->at > 1 && r->at[1] >= '0' && r->at[1] <= '9'))
    return refuse(r, "a number is malformed");
  double value = 0, factor = 1;
  int exponent = 0, given = 0;
  for (; digit(r); r->at++) value = value * 10 + (*r->at - '0');
  if (r->at < r->end && *r->at == '.') {
    r->at++;
    if (!digit(r)) return refuse(r, "a number is malformed");
    for (; digit(r); r->at++) {
      value = value * 10 + (*r->at - '0');
      exponent--;
    }
  }
  if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
    r->at++;
    bool minus = r->at < r->end && *r->at == '-';
    if (r->at < r->end && (*r->at == '-' || *r->at == '+')) r->at++;
    if (!digit(r)) return refuse(r, "a number is malformed");
    for (; digit(r); r->at++) given = given < 10000 ? given * 10 + (*r->at - '0') : given;
    exponent += minus ? -given : given;
  }
  if (exponent < -700) exponent = -700;
  if (exponent > 700) exponent = 700;
  for (int n = exponent < 0 ? -exponent : exponent; n > 0; n -= n > 300 ? 300 : n) {
    factor = 1;
    for (int i = 0; i < (n > 300 ? 300 : n); i++) factor *= 10;
    value = exponent < 0 ? value / factor : value * factor;
  }
  *result = negative ? -value : value;
  return true;
}

static bool word(reader *r, const char *text) {
  size_t size = strlen(text);
  if ((size_t)(r->end - r->at) < size || memcmp(r->at, text, size)) return refuse(r, "a value is malformed");
  r->at += size;
  return true;
}

static sg_json *value(reader *r, int depth);

static bool members(reader *r, sg_json *parent, bool object, int depth) {
  char close = object ? '}' : ']';
  sg_json *last = NULL;
  if (accept(r, close)) return true;
  do {
    const char *key = NULL;
    if (object) {
      if (!accept(r, '"')) return refuse(r, "a key is expected");
      if (!(key = string(r))) return false;
      if (parent->count >= MEMBERS) return refuse(r, "an object has too many members");
      if (sg_json_get(parent, key)) return refuse(r, "a key stands twice");
      if (!accept(r, ':')) return refuse(r, "':' is expected");
    }
    sg_json *item = value(r, depth + 1);
    if (!item) return false;
    item->key = key;
    if (last) last->next = item;
    else parent->child = item;
    last = item;
    parent->count++;
  } while (accept(r, ','));
  return accept(r, close) || refuse(r, "',' or a closing bracket is expected");
}

static sg_json *value(reader *r, int depth) {
  if (depth > DEPTH) {
    refuse(r, "it is nested too deeply");
    return NULL;
  }
  skip(r);
  sg_json *v = r->at < r->end ? take(r, sizeof *v) : NULL;
  if (!v) {
    refuse(r, "it ends early");
    return NULL;
  }
  memset(v, 0, sizeof *v);
  bool good;
  switch (*r->at) {
    case '{':
    case '[':
      v->kind = *r->at == '{' ? SG_OBJECT : SG_ARRAY;
      r->at++;
      good = members(r, v, v->kind == SG_OBJECT, depth);
      break;
    case '"':
      v->kind = SG_STRING;
      r->at++;
      good = (v->text = string(r)) != NULL;
      break;
    case 't':
    case 'f':
      v->kind = SG_BOOL;
      v->number = *r->at == 't';
      good = word(r, v->number != 0 ? "true" : "false");
      break;
    case 'n':
      v->kind = SG_NULL;
      good = word(r, "null");
      break;
    default:
      v->kind = SG_NUMBER;
      good = number(r, &v->number);
  }
  return good ? v : NULL;
}

const sg_json *sg_json_parse(const char *text, size_t size, sg_arena **arena, const char **reason) {
  reader r = {text, text + size, NULL, NULL};
  const sg_json *result = value(&r, 0);
  skip(&r);
  if (result && r.at != r.end) {
    refuse(&r, "something follows its end");
    result = NULL;
  }
  *arena = r.arena;
  *reason = r.reason;
  return result;
}

const sg_json *sg_json_get(const sg_json *object, const char *key) {
  if (!object || object->kind != SG_OBJECT) return NULL;
  for (const sg_json *item = object->child; item; item = item->next)
    if (!strcmp(item->key, key)) return item;
  return NULL;
}
