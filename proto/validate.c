/*
 * validate.c - see validate.h. Pure functions.
 *
 * Every sentence has three parts: the field, the value it had, what is allowed.
 */
#include "proto/validate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdbool.h>
#include <string.h>
#include "proto/caching.h"

/* Names the field to blame and passes the status on. */
#define BLAME(name, ...) (blame(field, name), error_set(error, STATUS_INVALID, __VA_ARGS__))

static void blame(const char **field, const char *name)
{
    if (field) *field = name;
}

/* -------------------------------------------------------------------------------------------------- texts */

/* Bytes of the UTF-8 sequence at the front of text[0..bytes), 0 if there is none. Ranges: Unicode 15, table
 * 3-7. */
static size_t utf8_sequence(const unsigned char *text, size_t bytes)
{
    unsigned char lead = text[0], low = 0x80, high = 0xBF;
    size_t length = lead < 0x80   ? 1
                    : lead < 0xC2 ? 0
                    : lead < 0xE0 ? 2
                    : lead < 0xF0 ? 3
                    : lead < 0xF5 ? 4
                                  : 0;
    if (length == 0 || length > bytes) return 0;
    if (lead == 0xE0) low = 0xA0;  /* overlong */
    if (lead == 0xED) high = 0x9F; /* surrogates */
    if (lead == 0xF0) low = 0x90;  /* overlong */
    if (lead == 0xF4) high = 0x8F; /* above U+10FFFF */
    for (size_t i = 1; i < length; i++, low = 0x80, high = 0xBF)
        if (text[i] < low || text[i] > high) return 0;
    return length;
}

status_t validate_text(const char *field, const char *text, size_t bytes, struct error *error)
{
    const unsigned char *at = (const unsigned char *)text;
    for (size_t i = 0; i < bytes;) {
        size_t length = utf8_sequence(at + i, bytes - i);
        if (length == 0)
            return error_set(error, STATUS_INVALID, "%s: byte %zu (0x%02x) is not valid UTF-8", field, i,
                             at[i]);
        if (at[i] == 0) return error_set(error, STATUS_INVALID, "%s: has a zero byte at %zu", field, i);
        i += length;
    }
    return STATUS_OK;
}

/* A text within its limit; absent is fine. */
static status_t check_text(const char *name, const char *text, size_t limit, const char **field,
                           struct error *error)
{
    if (!text) return STATUS_OK;
    size_t bytes = strlen(text);
    if (bytes > limit)
        return BLAME(name, "%s of %zu bytes: at most %zu bytes are allowed", name, bytes, limit);
    blame(field, name);
    return validate_text(name, text, bytes, error);
}

status_t validate_name(const char *field, const char *name, struct error *error)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t length = name ? strlen(name) : 0;
    if (length == 0) return error_set(error, STATUS_INVALID, "%s: must be given", field);
    if (length > LIMIT_NAME_BYTES)
        return error_set(error, STATUS_INVALID, "%s of %zu bytes: at most %d bytes are allowed", field,
                         length, LIMIT_NAME_BYTES);
    if (strspn(name, allowed) != length || name[0] == '.')
        return error_set(
            error, STATUS_INVALID,
            "%s '%s': only letters, digits, dot, underscore and hyphen are allowed, and no dot first", field,
            name);
    return STATUS_OK;
}

static status_t check_name(const char *field_name, const char *name, const char **field, struct error *error)
{
    blame(field, field_name);
    return validate_name(field_name, name, error);
}

/* ------------------------------------------------------------------------------------------------ numbers */

static status_t check_whole(const char *name, uint64_t value, uint64_t min, uint64_t max, const char **field,
                            struct error *error)
{
    if (value >= min && value <= max) return STATUS_OK;
    return BLAME(name, "%s %" PRIu64 ": must be %" PRIu64 " to %" PRIu64, name, value, min, max);
}

/* NaN fails every comparison, so finiteness is asked first and limits are written as what must hold. */
static status_t check_real(const char *name, double value, bool zero_allowed, double max, const char **field,
                           struct error *error)
{
    if (!isfinite(value)) return BLAME(name, "%s %g: must be a finite number", name, value);
    if (zero_allowed && !(value >= 0 && value <= max))
        return BLAME(name, "%s %g: must be 0 to %g", name, value, max);
    if (!zero_allowed && !(value > 0 && value <= max))
        return BLAME(name, "%s %g: must be above 0 and at most %g", name, value, max);
    return STATUS_OK;
}

/* value = multiple * n + rest with n >= 1 - rest; the sentence offers the neighbours that lie within the
 * limit. */
static status_t check_multiple(const char *name, uint32_t value, uint32_t multiple, uint32_t rest,
                               uint32_t max, const char **field, struct error *error)
{
    if (multiple == 0 || value % multiple == rest % multiple) return STATUS_OK;
    uint32_t below = (value - rest) / multiple * multiple + rest, above = below + multiple;
    char rule[48], near[48];
    if (rest)
        snprintf(rule, sizeof rule, "%u times a number plus %u", multiple, rest);
    else
        snprintf(rule, sizeof rule, "a multiple of %u", multiple);
    if (below < (rest ? rest : multiple))
        snprintf(near, sizeof near, "%u", above);
    else if (above > max)
        snprintf(near, sizeof near, "%u", below);
    else
        snprintf(near, sizeof near, "%u or %u", below, above);
    return BLAME(name, "%s %u: must be %s (%s)", name, value, rule, near);
}

static status_t check_size(const char *name, bool given, uint32_t value, uint32_t multiple,
                           const char **field, struct error *error)
{
    if (!given) return STATUS_OK;
    status_t status = check_whole(name, value, LIMIT_SIZE_MULTIPLE, LIMIT_SIZE, field, error);
    return status != STATUS_OK ? status : check_multiple(name, value, multiple, 0, LIMIT_SIZE, field, error);
}

static status_t check_enum(const char *name, bool given, int value, int max, const char **field,
                           struct error *error)
{
    if (!given || (value >= 0 && value <= max)) return STATUS_OK;
    return BLAME(name, "%s %d: must be 0 to %d", name, value, max);
}

/* --------------------------------------------------------------------------------------------------- jobs */

static status_t check_spec_texts(const Refrain__JobSpec *spec, const char **field, struct error *error)
{
    status_t status = spec->model ? check_name("model", spec->model, field, error) : STATUS_OK;
    if (status == STATUS_OK && !spec->prompt && !spec->resume_from)
        status = BLAME("prompt", "prompt: must be given");
    if (status == STATUS_OK) status = check_text("prompt", spec->prompt, LIMIT_PROMPT_BYTES, field, error);
    if (status == STATUS_OK)
        status = check_text("negative_prompt", spec->negative_prompt, LIMIT_PROMPT_BYTES, field, error);
    if (status == STATUS_OK) status = check_text("label", spec->label, LIMIT_LABEL_BYTES, field, error);
    return status;
}

/* width * height * frames, as far as they are given. */
static status_t check_pixels(const Refrain__JobSpec *spec, const char **field, struct error *error)
{
    if (!spec->has_width || !spec->has_height || !spec->has_frames) return STATUS_OK;
    int64_t pixels = (int64_t)spec->width * spec->height * spec->frames;
    if (pixels <= LIMIT_VIDEO_PIXELS) return STATUS_OK;
    return BLAME("frames", "frames %u: %ux%ux%u is %" PRId64 " pixels, at most %" PRId64 " are allowed",
                 spec->frames, spec->width, spec->height, spec->frames, pixels, LIMIT_VIDEO_PIXELS);
}

/* What only the other job can tell is coordinator/jobs/branch.h's. */
static status_t check_origin(const Refrain__JobSpec *spec, const char **field, struct error *error)
{
    status_t status = STATUS_OK;
    if (spec->resume_from > INT64_MAX)
        return BLAME("resume_from", "resume_from: a job's number must be given");
    if (spec->has_at_step && !spec->resume_from)
        return BLAME("at_step", "at_step %u: resume_from must name the job that made these steps",
                     spec->at_step);
    if (spec->has_at_step) status = check_whole("at_step", spec->at_step, 1, LIMIT_STEPS, field, error);
    if (status == STATUS_OK && spec->resume_from && spec->compare)
        status = BLAME("compare", "compare: a job that goes on from another one cannot compare");
    if (status == STATUS_OK && spec->has_preview_every)
        status = check_whole("preview_every", spec->preview_every, 0, LIMIT_STEPS, field, error);
    return status;
}

status_t validate_spec(const Refrain__JobSpec *spec, const char **field, struct error *error)
{
    status_t status = check_spec_texts(spec, field, error);
    if (status == STATUS_OK && spec->has_steps)
        status = check_whole("steps", spec->steps, 1, LIMIT_STEPS, field, error);
    if (status == STATUS_OK && spec->has_guidance)
        status = check_real("guidance", spec->guidance, true, LIMIT_GUIDANCE, field, error);
    if (status == STATUS_OK && spec->has_guidance_scale_2)
        status = check_real("guidance_scale_2", spec->guidance_scale_2, true, LIMIT_GUIDANCE, field, error);
    if (status == STATUS_OK && spec->has_shift)
        status = check_real("shift", spec->shift, false, LIMIT_SHIFT, field, error);
    if (status == STATUS_OK)
        status = check_size("width", spec->has_width, spec->width, LIMIT_SIZE_MULTIPLE, field, error);
    if (status == STATUS_OK)
        status = check_size("height", spec->has_height, spec->height, LIMIT_SIZE_MULTIPLE, field, error);
    if (status == STATUS_OK && spec->has_frames) {
        status = check_whole("frames", spec->frames, 1, LIMIT_FRAMES, field, error);
        if (status == STATUS_OK)
            status =
                check_multiple("frames", spec->frames, LIMIT_FRAME_MULTIPLE, 1, LIMIT_FRAMES, field, error);
    }
    if (status == STATUS_OK) status = check_pixels(spec, field, error);
    if (status == STATUS_OK && spec->has_fps)
        status = check_whole("fps", spec->fps, 1, LIMIT_FPS, field, error);
    if (status == STATUS_OK)
        status = check_enum("solver", spec->has_solver, (int)spec->solver, REFRAIN__SOLVER__SOLVER_EULER,
                            field, error);
    if (status == STATUS_OK)
        status = check_enum("priority", spec->has_priority, (int)spec->priority,
                            REFRAIN__PRIORITY__PRIORITY_HIGH, field, error);
    if (status == STATUS_OK && spec->has_deadline_ms)
        status = check_whole("deadline_ms", spec->deadline_ms, 0, LIMIT_DEADLINE_MS, field, error);
    if (status == STATUS_OK && spec->has_checkpoint_every)
        status =
            check_whole("checkpoint_every", spec->checkpoint_every, 0, LIMIT_CHECKPOINT_EVERY, field, error);
    if (status == STATUS_OK) status = check_origin(spec, field, error);
    if (status == STATUS_OK) status = caching_check(spec, field, error);
    return status;
}

/* A side in patches, against the positions the model was made for. */
static status_t check_positions(const char *name, bool given, uint32_t value, uint32_t per_patch,
                                const Refrain__ModelCard *card, const char **field, struct error *error)
{
    if (!given || value / per_patch <= card->max_position) return STATUS_OK;
    return BLAME(name, "%s %u: model %s goes up to %u", name, value, card->name ? card->name : "",
                 card->max_position * per_patch);
}

status_t validate_spec_for_model(const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                                 const char **field, struct error *error)
{
    uint32_t patch_pixels = card->vae_scale * card->patch;
    status_t status = check_size("width", spec->has_width, spec->width, card->size_multiple, field, error);
    if (status == STATUS_OK)
        status = check_size("height", spec->has_height, spec->height, card->size_multiple, field, error);
    if (status == STATUS_OK && spec->has_frames)
        status = check_multiple("frames", spec->frames, card->frame_multiple, 1, LIMIT_FRAMES, field, error);
    if (status == STATUS_OK)
        status = check_positions("width", spec->has_width, spec->width, patch_pixels, card, field, error);
    if (status == STATUS_OK)
        status = check_positions("height", spec->has_height, spec->height, patch_pixels, card, field, error);
    /* One latent frame for the first video frame, then one for each frame_multiple. */
    if (status == STATUS_OK && spec->has_frames &&
        (spec->frames - 1) / card->frame_multiple + 1 > card->max_position)
        status = BLAME("frames", "frames %u: model %s goes up to %u", spec->frames,
                       card->name ? card->name : "", (card->max_position - 1) * card->frame_multiple + 1);
    if (status == STATUS_OK && spec->has_guidance_scale_2 && card->experts < 2)
        status =
            BLAME("guidance_scale_2",
                  "guidance_scale_2 %g: model %s has one expert, and this is the guidance of a second one",
                  spec->guidance_scale_2, card->name ? card->name : "");
    if (status == STATUS_OK) status = caching_check_for_model(spec, card, field, error);
    return status;
}

static status_t fill_text(char **text, const char *standard)
{
    if (!*text) *text = strdup(standard);
    return *text ? STATUS_OK : STATUS_NO_MEMORY;
}

#define FILL(spec, name, value)                                                                              \
    do {                                                                                                     \
        if (!(spec)->has_##name) (spec)->name = (value), (spec)->has_##name = 1;                             \
    } while (0)

/* After this the spec says everything; the store keeps it so, and a later change of defaults changes no
 * stored job. */
status_t validate_fill(Refrain__JobSpec *spec, const Refrain__ModelCard *card, struct error *error)
{
    FILL(spec, seed, 0);
    FILL(spec, steps, DEFAULT_STEPS);
    FILL(spec, guidance, DEFAULT_GUIDANCE);
    if (card->experts > 1) FILL(spec, guidance_scale_2, spec->guidance); /* as the reference */
    FILL(spec, width, card->default_width);
    FILL(spec, height, card->default_height);
    FILL(spec, frames, card->default_frames);
    FILL(spec, shift, card->shift);
    FILL(spec, fps, 16);
    FILL(spec, save_latents, 0);
    FILL(spec, save_frames, 0);
    FILL(spec, priority, REFRAIN__PRIORITY__PRIORITY_NORMAL);
    FILL(spec, deadline_ms, 0);
    FILL(spec, deadline_strict, 0);
    FILL(spec, checkpoint_every, DEFAULT_CHECKPOINT_EVERY);
    if (!spec->has_solver || spec->solver == REFRAIN__SOLVER__SOLVER_MODEL_DEFAULT) {
        spec->has_solver = 1;
        spec->solver = card->solver;
    }
    if (fill_text(&spec->model, card->name) != STATUS_OK ||
        fill_text(&spec->negative_prompt, "") != STATUS_OK)
        return error_set(error, STATUS_NO_MEMORY, "no memory for the job");
    return caching_fill(spec, card, error);
}

/* ----------------------------------------------------------------------------------------------- requests */

static status_t check_job(bool given, uint64_t job, const char **field, struct error *error)
{
    if (!given || job == 0 || job > INT64_MAX) return BLAME("job", "job: a job's number must be given");
    return STATUS_OK;
}

static status_t check_submit(const Refrain__Submit *submit, const char **field, struct error *error)
{
    if (!submit->spec) return BLAME("spec", "spec: must be given");
    const char *key = submit->idempotency_key;
    if (key && !*key) return BLAME("idempotency_key", "idempotency_key: must not be empty");
    status_t status = check_text("idempotency_key", key, LIMIT_KEY_BYTES, field, error);
    return status != STATUS_OK ? status : validate_spec(submit->spec, field, error);
}

static status_t check_fetch(const Refrain__Fetch *fetch, const char **field, struct error *error)
{
    status_t status = check_job(fetch->has_job, fetch->job, field, error);
    if (status == STATUS_OK) status = check_name("file", fetch->file, field, error);
    if (status == STATUS_OK && fetch->has_bytes)
        status = check_whole("bytes", fetch->bytes, 1, 1 << 20, field, error);
    if (status == STATUS_OK && fetch->has_offset)
        status = check_whole("offset", fetch->offset, 0, INT64_MAX, field, error);
    return status;
}

static status_t check_model_add(const Refrain__ModelAdd *add, const char **field, struct error *error)
{
    status_t status = check_name("name", add->name, field, error);
    if (status == STATUS_OK && (!add->directory || add->directory[0] != '/'))
        status = BLAME("directory", "directory '%s': must be an absolute path on the coordinator's host",
                       add->directory ? add->directory : "");
    if (status == STATUS_OK)
        status = check_text("directory", add->directory, LIMIT_DIRECTORY_BYTES, field, error);
    return status;
}

/* Whether there are such a key and kind is the coordinator's to say. */
static status_t check_cache(const Refrain__CacheQuery *query, const char **field, struct error *error)
{
    bool needs_key = query->verb >= REFRAIN__CACHE_VERB__CACHE_FORGET;
    if (query->verb > REFRAIN__CACHE_VERB__CACHE_UNPIN)
        return BLAME("verb", "verb %d: is none that this version knows", (int)query->verb);
    if (needs_key && !query->item) return BLAME("item", "item: is missing");
    if (query->item && strlen(query->item) > LIMIT_CACHE_KEY_BYTES)
        return BLAME("item", "item: is longer than %d bytes", LIMIT_CACHE_KEY_BYTES);
    if (query->kind && strlen(query->kind) > LIMIT_CACHE_KEY_BYTES)
        return BLAME("kind", "kind: is longer than %d bytes", LIMIT_CACHE_KEY_BYTES);
    return query->has_limit ? check_whole("limit", query->limit, 1, LIMIT_LIST, field, error) : STATUS_OK;
}

status_t validate_request(const Refrain__Request *request, const char **field, struct error *error)
{
    switch (request->body_case) {
    case REFRAIN__REQUEST__BODY_SUBMIT:
        return check_submit(request->submit, field, error);
    case REFRAIN__REQUEST__BODY_STATUS:
        return check_job(request->status->has_job, request->status->job, field, error);
    case REFRAIN__REQUEST__BODY_WATCH:
        return check_job(request->watch->has_job, request->watch->job, field, error);
    case REFRAIN__REQUEST__BODY_CANCEL:
        return check_job(request->cancel->has_job, request->cancel->job, field, error);
    case REFRAIN__REQUEST__BODY_DELETE:
        return check_job(request->delete_->has_job, request->delete_->job, field, error);
    case REFRAIN__REQUEST__BODY_FETCH:
        return check_fetch(request->fetch, field, error);
    case REFRAIN__REQUEST__BODY_LIST:
        return request->list->has_limit
                   ? check_whole("limit", request->list->limit, 1, LIMIT_LIST, field, error)
                   : STATUS_OK;
    case REFRAIN__REQUEST__BODY_MODEL_ADD:
        return check_model_add(request->model_add, field, error);
    case REFRAIN__REQUEST__BODY_MODEL_REMOVE:
        return check_name("name", request->model_remove->name, field, error);
    case REFRAIN__REQUEST__BODY_CACHE:
        return check_cache(request->cache, field, error);
    case REFRAIN__REQUEST__BODY_DRAIN:
        if (!request->drain->who || !*request->drain->who)
            return BLAME("who", "who: must be given: GROUP/RANK, RANK or a host");
        return check_text("who", request->drain->who, LIMIT_WHO_BYTES, field, error);
    case REFRAIN__REQUEST__BODY_STATS:
    case REFRAIN__REQUEST__BODY_MODEL_LIST:
        return STATUS_OK;
    default:
        return BLAME("body", "body: the request asks for nothing this version knows");
    }
}

/* Divisors must not be 0 and products must fit: checked once here, relied on everywhere else. */
status_t validate_card(const Refrain__ModelCard *card, struct error *error)
{
    const char *ignored, **field = &ignored;
    const struct {
        const char *name;
        uint64_t value, min, max;
    } numbers[] = {
        {"layers", card->layers, 1, 4096},
        {"heads", card->heads, 1, 4096},
        {"head_dim", card->head_dim, 1, 4096},
        {"size_multiple", card->size_multiple, 1, LIMIT_SIZE},
        {"frame_multiple", card->frame_multiple, 1, LIMIT_FRAMES},
        {"solver", card->solver, REFRAIN__SOLVER__SOLVER_UNIPC, REFRAIN__SOLVER__SOLVER_EULER},
        {"default_width", card->default_width, LIMIT_SIZE_MULTIPLE, LIMIT_SIZE},
        {"default_height", card->default_height, LIMIT_SIZE_MULTIPLE, LIMIT_SIZE},
        {"default_frames", card->default_frames, 1, LIMIT_FRAMES},
        {"max_position", card->max_position, 1, 1 << 20},
        {"vae_scale", card->vae_scale, 1, 64},
        {"patch", card->patch, 1, 64},
        {"ffn_dim", card->ffn_dim, 0, LIMIT_TABLE_VALUES},
        {"latent_channels", card->latent_channels, 1, LIMIT_TABLE_LAYERS},
    };
    status_t status =
        card->pipeline ? STATUS_OK : error_set(error, STATUS_INVALID, "pipeline: must be given");
    for (size_t i = 0; status == STATUS_OK && i < sizeof numbers / sizeof *numbers; i++)
        status = check_whole(numbers[i].name, numbers[i].value, numbers[i].min, numbers[i].max, field, error);
    if (status == STATUS_OK) status = check_real("shift", card->shift, false, LIMIT_SHIFT, field, error);
    if (status == STATUS_OK) /* 0: a card of an earlier build */
        status = check_whole("experts", card->experts, 0, LIMIT_EXPERTS, field, error);
    if (status == STATUS_OK && card->experts > 1)
        status = check_whole("train_steps", card->train_steps, 1, 1000000, field, error);
    if (status == STATUS_OK && card->experts > 1)
        status = check_real("boundary", card->boundary, false, 1, field, error);
    if (status == STATUS_OK && card->has_shift_terminal)
        status = check_real("shift_terminal", card->shift_terminal, true, 0.999, field, error);
    if (status == STATUS_OK)
        status = caching_check_tables("tables", card->tables, card->n_tables, LIMIT_CARD_TABLES, error);
    return status;
}
