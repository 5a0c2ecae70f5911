/*
 * charsmap.c - precompiled_charsmap: a double-array trie from byte sequences to replacement strings.
 *
 * Layout (sentencepiece, src/normalizer.cc): uint32 size of the trie in bytes, the trie's uint32 units, then
 * the replacements, each ended by a NUL; everything little-endian. Unit format: darts-clone (S. Yata),
 * darts.h.
 *
 * How it is applied follows the reference's tokenizers library (normalizers/precompiled.rs, crate
 * spm_precompiled): text is cut into grapheme clusters; a cluster of fewer than 6 bytes is replaced as a
 * whole by the entry of its *shortest* prefix in the table, even where the prefix is not the whole cluster;
 * otherwise each code point is looked up by itself. SentencePiece instead takes the longest match at each
 * position. The two differ for letters with loose accents, and the ids of the reference are the former's.
 */
#include "worker/model/charsmap.h"

#include <endian.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

struct charsmap {
    uint32_t *units; /* [unit_count], host byte order */
    size_t unit_count;
    char *replacements; /* [replacement_bytes], the last byte is NUL */
    size_t replacement_bytes;
};

enum { WHOLE_CLUSTER_BYTES = 6 };

void bytes_append(struct bytes *bytes, const char *from, size_t count)
{
    if (bytes->failed) return;
    if (count > bytes->capacity - bytes->count) {
        size_t capacity = bytes->capacity ? bytes->capacity : 256;
        while (capacity < bytes->count + count) capacity *= 2;
        char *grown = realloc(bytes->at, capacity);
        if (grown == NULL) {
            bytes->failed = true;
            return;
        }
        bytes->at = grown;
        bytes->capacity = capacity;
    }
    if (count > 0) memcpy(bytes->at + bytes->count, from, count);
    bytes->count += count;
}

/* Valid UTF-8 between the NULs, so that whatever is cut out at a character's start is text. */
static bool is_text(const char *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t n =
            utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(length - i), &point);
        if (n < 1) return false;
        i += (size_t)n;
    }
    return true;
}

status_t charsmap_create(const void *blob, size_t bytes, struct charsmap **map, struct error *error)
{
    uint32_t trie_bytes = 0;
    if (bytes >= sizeof trie_bytes) memcpy(&trie_bytes, blob, sizeof trie_bytes);
    trie_bytes = le32toh(trie_bytes);
    const char *data = blob;
    if (bytes < sizeof trie_bytes + 5 || trie_bytes < 4 || trie_bytes % 4 != 0 || trie_bytes > bytes - 5 ||
        data[bytes - 1] != 0 || !is_text(data + 4 + trie_bytes, bytes - 4 - trie_bytes))
        return error_set(error, STATUS_CORRUPT, "precompiled_charsmap of %zu bytes: its parts do not fit",
                         bytes);

    struct charsmap *m = calloc(1, sizeof *m);
    if (m == NULL) goto no_memory;
    m->unit_count = trie_bytes / 4;
    m->replacement_bytes = bytes - 4 - trie_bytes;
    m->units = malloc(trie_bytes);
    m->replacements = malloc(m->replacement_bytes);
    if (m->units == NULL || m->replacements == NULL) goto no_memory;
    memcpy(m->units, data + 4, trie_bytes);
    for (size_t i = 0; i < m->unit_count; i++) m->units[i] = le32toh(m->units[i]);
    memcpy(m->replacements, data + 4 + trie_bytes, m->replacement_bytes);
    *map = m;
    return STATUS_OK;

no_memory:
    charsmap_destroy(m);
    return error_set(error, STATUS_NO_MEMORY, "precompiled_charsmap of %zu bytes does not fit in memory",
                     bytes);
}

void charsmap_destroy(struct charsmap *map)
{
    if (map == NULL) return;
    free(map->units);
    free(map->replacements);
    free(map);
}

/* Where a unit's children are, relative to it. */
static size_t unit_offset(uint32_t unit)
{
    return (size_t)(unit >> 10) << ((unit & (UINT32_C(1) << 9)) >> 6);
}

/* The replacement of the shortest entry that `text` [length] begins with, or NULL. Every position is checked:
 * the table comes from a file. */
static const char *replacement_of(const struct charsmap *m, const char *text, size_t length)
{
    size_t at = unit_offset(m->units[0]);
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        at ^= byte;
        if (at >= m->unit_count) return NULL;
        uint32_t unit = m->units[at];
        if ((unit & UINT32_C(0x800000ff)) != byte) return NULL; /* the label, with the mark of a value */
        at ^= unit_offset(unit);
        if (unit & UINT32_C(0x100)) { /* an entry ends here: its value is the first child */
            if (at >= m->unit_count) return NULL;
            size_t value = m->units[at] & UINT32_C(0x7fffffff);
            bool inside = value < m->replacement_bytes && (m->replacements[value] & 0xC0) != 0x80;
            return inside ? m->replacements + value : NULL;
        }
    }
    return NULL;
}

/* cluster: [length] bytes, one grapheme. */
static void apply_cluster(const struct charsmap *m, const char *cluster, size_t length, struct bytes *out)
{
    const char *whole = length < WHOLE_CLUSTER_BYTES ? replacement_of(m, cluster, length) : NULL;
    if (whole != NULL) {
        bytes_append(out, whole, strlen(whole));
        return;
    }
    for (size_t i = 0; i < length;) {
        size_t n = (size_t)utf8proc_utf8class[(unsigned char)cluster[i]];
        const char *one = replacement_of(m, cluster + i, n);
        if (one != NULL)
            bytes_append(out, one, strlen(one));
        else
            bytes_append(out, cluster + i, n);
        i += n;
    }
}

void charsmap_apply(const struct charsmap *map, const char *text, size_t length, struct bytes *out)
{
    if (map == NULL) {
        bytes_append(out, text, length);
        return;
    }
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    utf8proc_int32_t before = 0, state = 0;
    size_t cluster = 0;
    for (size_t i = 0; i < length;) {
        utf8proc_int32_t point;
        size_t n = (size_t)utf8proc_iterate(bytes + i, (utf8proc_ssize_t)(length - i), &point);
        if (i > 0 && utf8proc_grapheme_break_stateful(before, point, &state)) {
            apply_cluster(map, text + cluster, i - cluster, out);
            cluster = i;
        }
        before = point;
        i += n;
    }
    if (length > 0) apply_cluster(map, text + cluster, length - cluster, out);
}
