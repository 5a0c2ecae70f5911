/*
 * key.c - see key.h. Facts are put one after the other as 64-bit numbers, texts as hash and length, and that list is
 * hashed: no gaps of structs, no addresses, the same on every machine.
 */
#include "cache/tier/key.h"

#include <endian.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

_Static_assert(sizeof(struct key) == KEY_BYTES, "a key has no gaps");

enum { FACTS_MAX = 64, DIGITS = 16 }; /* hexadecimal, of 64 bits */

static const char *const kind_names[ITEM_KINDS] = {"text",   "first-step", "checkpoint",
                                                   "latent", "table",      "residual"};
static const bool may_be_public[ITEM_KINDS] = {[ITEM_TEXT] = true, [ITEM_TABLE] = true};

const char *item_kind_name(enum item_kind kind)
{
    return (unsigned)kind < ITEM_KINDS ? kind_names[kind] : "unknown";
}

/* ---------------------------------------------------------------------------------------------- the list */

struct list {
    uint64_t facts[FACTS_MAX]; /* little-endian */
    int count;
    struct error *error;
    status_t status; /* the first fact that was refused */
};

static void put(struct list *list, uint64_t fact)
{
    if (list->count < FACTS_MAX) list->facts[list->count++] = htole64(fact);
}

static void put_range(struct list *list, const char *name, uint64_t fact, uint64_t least, uint64_t most)
{
    if ((fact < least || fact > most) && list->status == STATUS_OK)
        list->status = error_set(list->error, STATUS_INVALID,
                                 "key: %s is %" PRIu64 ": %" PRIu64 " to %" PRIu64 " are allowed", name, fact,
                                 least, most);
    put(list, fact);
}

/* By its bits; 0 and -0 are the same number. */
static void put_number(struct list *list, const char *name, double fact)
{
    uint64_t bits;
    if (!isfinite(fact) && list->status == STATUS_OK)
        list->status = error_set(list->error, STATUS_INVALID, "key: %s is no finite number", name);
    fact += 0.0;
    memcpy(&bits, &fact, sizeof bits);
    put(list, bits);
}

static void put_string(struct list *list, const char *name, const char *text, size_t bytes, size_t most)
{
    if ((bytes > most || (!text && bytes)) && list->status == STATUS_OK)
        list->status = error_set(list->error, STATUS_INVALID,
                                 "key: %s has %zu bytes: at most %zu are allowed", name, bytes, most);
    if (list->status != STATUS_OK) return;
    XXH128_hash_t hash = XXH3_128bits(bytes ? text : "", bytes);
    put(list, hash.low64);
    put(list, hash.high64);
    put(list, bytes);
}

static void put_text(struct list *list, const struct text_facts *facts)
{
    put(list, facts->encoder);
    put(list, facts->tokenizer);
    put(list, facts->numerics);
    put_string(list, "the text", facts->text, facts->bytes, KEY_TEXT_MAX);
    put_range(list, "rows", facts->rows, 1, KEY_SIDE_MAX);
    put_range(list, "the text's element type", facts->element, ELEMENT_F32, ELEMENT_F16);
}

static void put_picture(struct list *list, const struct picture_facts *facts)
{
    put_range(list, "width", facts->width, 1, KEY_SIDE_MAX);
    put_range(list, "height", facts->height, 1, KEY_SIDE_MAX);
    put_range(list, "frames", facts->frames, 1, KEY_SIDE_MAX);
    put(list, facts->image);
}

static void put_key(struct list *list, const struct key *key)
{
    put(list, key->tenant);
    put(list, key->low);
    put(list, key->high);
}

static void put_run(struct list *list, const struct run_facts *facts)
{
    bool guided = facts->guidance > 1;
    put(list, facts->weights);
    put(list, facts->adapters);
    put(list, facts->numerics);
    put_text(list, &facts->positive);
    put(list, guided);
    if (guided) put_text(list, &facts->negative);
    put_number(list, "guidance", guided ? facts->guidance : 1.0);
    put_number(list, "guidance_2", guided ? facts->guidance_2 : 0.0);
    put_picture(list, &facts->picture);
    put(list, facts->origin != NULL);
    if (facts->origin) {
        put_key(list, facts->origin);
        put_range(list, "the step it went on from", facts->origin_step, 1, KEY_STEPS_MAX);
    } else {
        put(list, facts->noise.seed);
        put(list, facts->noise.generator);
    }
    put(list, facts->solver);
    put(list, facts->order);
    put_number(list, "shift", facts->shift);
    put_range(list, "steps", facts->steps, 1, KEY_STEPS_MAX);
    put_string(list, "the caching policy", facts->policy, facts->policy ? strlen(facts->policy) : 0,
               KEY_TEXT_MAX);
    put(list, facts->tables);
    put_range(list, "the element type", facts->element, ELEMENT_F32, ELEMENT_F16);
}

status_t key_tenant(const char *tenant, uint64_t *number, struct error *error)
{
    if (!tenant) {
        *number = KEY_PUBLIC;
        return STATUS_OK;
    }
    size_t bytes = strlen(tenant);
    if (bytes > KEY_TENANT_MAX)
        return error_set(error, STATUS_INVALID,
                         "key: the tenant's name has %zu bytes: at most %d are allowed", bytes,
                         KEY_TENANT_MAX);
    uint64_t hash = XXH3_64bits(tenant, bytes);
    *number = hash == KEY_PUBLIC ? 1 : hash;
    return STATUS_OK;
}

static status_t finish_for(const struct list *list, enum item_kind kind, uint64_t tenant, struct key *key)
{
    if (list->status != STATUS_OK) return list->status;
    if (tenant == KEY_PUBLIC && !may_be_public[kind])
        return error_set(list->error, STATUS_DENIED,
                         "key: an item of kind %s is a tenant's and cannot be public", kind_names[kind]);
    XXH128_hash_t hash = XXH3_128bits_withSeed(list->facts, (size_t)list->count * sizeof *list->facts,
                                               (uint64_t)kind << 32 | KEY_FORMAT);
    *key = (struct key){.tenant = tenant,
                        .low = hash.low64,
                        .high = hash.high64,
                        .kind = (uint32_t)kind,
                        .format = KEY_FORMAT};
    return STATUS_OK;
}

static status_t finish(const struct list *list, enum item_kind kind, const char *tenant, struct key *key)
{
    uint64_t number;
    if (list->status != STATUS_OK) return list->status;
    status_t status = key_tenant(tenant, &number, list->error);
    return status == STATUS_OK ? finish_for(list, kind, number, key) : status;
}

/* ---------------------------------------------------------------------------------------------- the kinds */

status_t key_of_text(const char *tenant, const struct text_facts *facts, struct key *key, struct error *error)
{
    struct list list = {.error = error};
    put_text(&list, facts);
    return finish(&list, ITEM_TEXT, tenant, key);
}

status_t key_of_first_step(const char *tenant, const struct first_step_facts *facts, struct key *key,
                           struct error *error)
{
    struct list list = {.error = error};
    put(&list, facts->weights);
    put(&list, facts->adapters);
    put(&list, facts->numerics);
    put_text(&list, &facts->text);
    put_picture(&list, &facts->picture);
    put(&list, facts->noise.seed);
    put(&list, facts->noise.generator);
    put_number(&list, "sigma", facts->sigma);
    put_number(&list, "the time step", facts->timestep);
    put_range(&list, "the element type", facts->element, ELEMENT_F32, ELEMENT_F16);
    return finish(&list, ITEM_FIRST_STEP, tenant, key);
}

status_t key_of_latent(const char *tenant, const struct run_facts *facts, struct key *key,
                       struct error *error)
{
    struct list list = {.error = error};
    put_run(&list, facts);
    return finish(&list, ITEM_LATENT, tenant, key);
}

/* A list that begins with a run's name. */
static struct list begin_of(const struct key *run, struct error *error)
{
    struct list list = {.error = error};
    if (!key_is_run(run))
        list.status = error_set(error, STATUS_INVALID, "key: a run is named by its latent's, not by a %s's",
                                item_kind_name((enum item_kind)run->kind));
    put_key(&list, run);
    return list;
}

status_t key_of_checkpoint(const struct key *run, uint32_t step, struct key *key, struct error *error)
{
    struct list list = begin_of(run, error);
    put_range(&list, "step", step, 1, KEY_STEPS_MAX);
    return finish_for(&list, ITEM_CHECKPOINT, run->tenant, key);
}

status_t key_of_residual(const struct key *run, const struct residual_facts *residual, struct key *key,
                         struct error *error)
{
    struct list list = begin_of(run, error);
    put_range(&list, "step", residual->step, 0, KEY_STEPS_MAX);
    put(&list, residual->branch);
    put(&list, residual->block_begin);
    put_range(&list, "the last block", residual->block_end, (uint64_t)residual->block_begin + 1, UINT32_MAX);
    return finish_for(&list, ITEM_RESIDUAL, run->tenant, key);
}

status_t key_of_table(const char *tenant, const struct table_facts *facts, struct key *key,
                      struct error *error)
{
    struct list list = {.error = error};
    put(&list, facts->weights);
    put(&list, facts->adapters);
    put(&list, facts->numerics);
    put_string(&list, "the method", facts->method, facts->method ? strlen(facts->method) : 0, KEY_TENANT_MAX);
    put(&list, facts->prompts);
    put_picture(&list, &facts->picture);
    put(&list, facts->solver);
    put(&list, facts->order);
    put_range(&list, "steps", facts->steps, 1, KEY_STEPS_MAX);
    put_number(&list, "shift", facts->shift);
    put_number(&list, "guidance", facts->guidance);
    put_number(&list, "guidance_2", facts->guidance_2);
    return finish(&list, ITEM_TABLE, tenant, key);
}

/* ------------------------------------------------------------------------------------------ keys as bytes */

bool key_is_run(const struct key *key)
{
    return (key->kind == ITEM_LATENT || key->kind == ITEM_TABLE) && key->format == KEY_FORMAT;
}

bool key_equal(const struct key *a, const struct key *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

void key_encode(const struct key *key, uint8_t wire[KEY_BYTES])
{
    struct key little = {.tenant = htole64(key->tenant),
                         .low = htole64(key->low),
                         .high = htole64(key->high),
                         .kind = htole32(key->kind),
                         .format = htole32(key->format)};
    memcpy(wire, &little, sizeof little);
}

static status_t check(const struct key *key, struct error *error)
{
    if (key->format != KEY_FORMAT)
        return error_set(error, STATUS_CORRUPT, "key: its format is %" PRIu32 ", this program's %d",
                         key->format, KEY_FORMAT);
    if (key->kind >= ITEM_KINDS)
        return error_set(error, STATUS_CORRUPT, "key: no kind has number %" PRIu32, key->kind);
    if (key->tenant == KEY_PUBLIC && !may_be_public[key->kind])
        return error_set(error, STATUS_CORRUPT, "key: an item of kind %s cannot be public",
                         kind_names[key->kind]);
    return STATUS_OK;
}

status_t key_decode(const uint8_t wire[KEY_BYTES], struct key *key, struct error *error)
{
    struct key little;
    memcpy(&little, wire, sizeof little);
    struct key found = {.tenant = le64toh(little.tenant),
                        .low = le64toh(little.low),
                        .high = le64toh(little.high),
                        .kind = le32toh(little.kind),
                        .format = le32toh(little.format)};
    status_t status = check(&found, error);
    if (status == STATUS_OK) *key = found;
    return status;
}

void key_write(const struct key *key, char text[KEY_LETTERS])
{
    snprintf(text, KEY_LETTERS, "%.10s-%016" PRIx64 "-%016" PRIx64 "%016" PRIx64,
             item_kind_name((enum item_kind)key->kind), key->tenant, key->high, key->low);
}

/* Sixteen lower-case digits. */
static bool read_digits(const char *text, uint64_t *number)
{
    char digits[DIGITS + 1] = "";
    if (strspn(text, "0123456789abcdef") < DIGITS) return false;
    memcpy(digits, text, DIGITS);
    *number = strtoull(digits, NULL, 16);
    return true;
}

status_t key_read(const char *text, struct key *key, struct error *error)
{
    struct key found = {.format = KEY_FORMAT, .kind = ITEM_KINDS};
    size_t name = 0;
    for (uint32_t kind = 0; kind < ITEM_KINDS; kind++) {
        name = strlen(kind_names[kind]);
        if (strncmp(text, kind_names[kind], name) != 0 || text[name] != '-') continue;
        found.kind = kind;
        break;
    }
    const char *rest = text + name + 1;
    if (found.kind == ITEM_KINDS || strlen(rest) != DIGITS + 1 + DIGITS + DIGITS ||
        !read_digits(rest, &found.tenant) || rest[DIGITS] != '-' ||
        !read_digits(rest + DIGITS + 1, &found.high) ||
        !read_digits(rest + DIGITS + 1 + DIGITS, &found.low) || check(&found, NULL) != STATUS_OK)
        return error_set(error, STATUS_INVALID,
                         "'%.80s' is no item's key: KIND-TENANT-DIGEST is, as lists show it", text);
    *key = found;
    return STATUS_OK;
}
