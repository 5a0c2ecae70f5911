/*
 * caching.c - see caching.h. Pure functions.
 */
#include "proto/caching.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cache/rehearse.h"
#include "cache/schedule.h"
#include "proto/validate.h"

static status_t blame(const char **field, const char *name, status_t status)
{
    if (field) *field = name;
    return status;
}

/* ------------------------------------------------------------------------------------------------- tables */

/* The kinds are whatever the registry's policies and forecasts ask for. NULL after the last; a kind that
 * several use comes up several times. */
static const char *kind_at(size_t index)
{
    for (size_t i = 0; policies[i]; i++)
        if (policies[i]->table && index-- == 0) return policies[i]->table;
    for (size_t i = 0; forecasts[i]; i++)
        if (forecasts[i]->table && index-- == 0) return forecasts[i]->table;
    return NULL;
}

/* "teacache" and its variant "teacache-retention" are of one kind. */
static bool kind_is(const char *kind, const char *base)
{
    size_t length = strlen(base);
    return strncmp(kind, base, length) == 0 && (kind[length] == '\0' || kind[length] == '-');
}

bool caching_kind_known(const char *kind)
{
    const char *known;
    if (strlen(kind) > LIMIT_NAME_BYTES) return false;
    for (size_t i = 0; (known = kind_at(i)); i++)
        if (kind_is(kind, known)) return true;
    return false;
}

const char *caching_kinds(char *text, size_t bytes)
{
    const char *kind;
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; (kind = kind_at(i)) && used < bytes; i++) {
        bool repeated = false;
        for (size_t j = 0; j < i; j++) repeated |= strcmp(kind_at(j), kind) == 0;
        if (!repeated) used += (size_t)snprintf(text + used, bytes - used, "%s%s", used ? ", " : "", kind);
    }
    return text;
}

void caching_table(const Refrain__CacheTable *message, struct cache_table *table)
{
    *table = (struct cache_table){
        .kind = message->kind,
        .name = message->name ? message->name : "",
        .model = {.layers = (int)message->layers,
                  .heads = (int)message->heads,
                  .head_dim = (int)message->head_dim,
                  .ffn_dim = (int)message->ffn_dim,
                  .latent_channels = (int)message->latent_channels,
                  .experts = (int)message->experts},
        .steps = (int)message->steps,
        .shift = message->shift,
        .width = (int)message->width,
        .count = (int)message->n_values,
        .values = message->values,
    };
}

static status_t check_table_numbers(const char *where, const Refrain__CacheTable *table, struct error *error)
{
    const struct {
        const char *name;
        uint32_t value, min, max;
    } numbers[] = {
        {"layers", table->layers, 0, LIMIT_TABLE_LAYERS},
        {"heads", table->heads, 0, LIMIT_TABLE_LAYERS},
        {"head_dim", table->head_dim, 0, LIMIT_TABLE_LAYERS},
        {"ffn_dim", table->ffn_dim, 0, LIMIT_TABLE_VALUES},
        {"latent_channels", table->latent_channels, 0, LIMIT_TABLE_LAYERS},
        {"experts", table->experts, 0, LIMIT_EXPERTS},
        {"steps", table->steps, 0, LIMIT_STEPS},
        {"width", table->width, 1, LIMIT_TABLE_VALUES},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (numbers[i].value < numbers[i].min || numbers[i].value > numbers[i].max)
            return error_set(error, STATUS_INVALID, "%s: %s is %u; must be %u to %u", where, numbers[i].name,
                             numbers[i].value, numbers[i].min, numbers[i].max);
    if (!(table->shift >= 0 && table->shift <= LIMIT_SHIFT))
        return error_set(error, STATUS_INVALID, "%s: shift is %g; must be 0 to %d", where, table->shift,
                         LIMIT_SHIFT);
    if (table->n_values == 0 || table->n_values % table->width != 0)
        return error_set(error, STATUS_INVALID, "%s: has %zu values; must be rows of %u", where,
                         table->n_values, table->width);
    for (size_t i = 0; i < table->n_values; i++)
        if (!isfinite(table->values[i]))
            return error_set(error, STATUS_INVALID, "%s: values[%zu] is %g; must be finite", where, i,
                             table->values[i]);
    return STATUS_OK;
}

static status_t check_table(const char *where, const Refrain__CacheTable *table, struct error *error)
{
    char kinds[128];
    if (!table->kind || !caching_kind_known(table->kind))
        return error_set(error, STATUS_INVALID, "%s: kind is %.32s; must be one of %s", where,
                         table->kind ? table->kind : "missing", caching_kinds(kinds, sizeof kinds));
    if (table->name && strlen(table->name) > LIMIT_LABEL_BYTES)
        return error_set(error, STATUS_INVALID, "%s: name of %zu bytes: at most %d bytes are allowed", where,
                         strlen(table->name), LIMIT_LABEL_BYTES);
    status_t status = table->name ? validate_text(where, table->name, strlen(table->name), error) : STATUS_OK;
    return status != STATUS_OK ? status : check_table_numbers(where, table, error);
}

/* Lengths first: what is looked at value by value is bounded. */
status_t caching_check_tables(const char *field, Refrain__CacheTable *const *tables, size_t count,
                              size_t limit, struct error *error)
{
    char where[64];
    size_t values = 0;
    if (count > limit)
        return error_set(error, STATUS_INVALID, "%s: are %zu, at most %zu are allowed", field, count, limit);
    for (size_t i = 0; i < count; i++) values += tables[i]->n_values;
    if (values > LIMIT_TABLE_VALUES)
        return error_set(error, STATUS_INVALID, "%s: have %zu values in all, at most %d are allowed", field,
                         values, LIMIT_TABLE_VALUES);
    status_t status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < count; i++) {
        snprintf(where, sizeof where, "%s[%zu]", field, i);
        status = check_table(where, tables[i], error);
    }
    return status;
}

/* --------------------------------------------------------------------------------------------------- jobs */

static status_t read_settings(const Refrain__JobSpec *spec, struct cache_settings *settings,
                              struct error *error)
{
    *settings = (struct cache_settings){0};
    if (!spec->cache || !*spec->cache) return STATUS_OK;
    return cache_settings_read(spec->cache, settings, error);
}

bool caching_on(const Refrain__JobSpec *spec)
{
    struct cache_settings settings;
    return read_settings(spec, &settings, NULL) == STATUS_OK && settings.policy;
}

status_t caching_check(const Refrain__JobSpec *spec, const char **field, struct error *error)
{
    struct cache_settings settings;
    size_t bytes = spec->cache ? strlen(spec->cache) : 0;
    if (bytes >= CACHE_TEXT_BYTES)
        return blame(field, "cache",
                     error_set(error, STATUS_INVALID, "cache of %zu bytes: at most %d bytes are allowed",
                               bytes, CACHE_TEXT_BYTES - 1));
    status_t status = validate_text("cache", spec->cache, bytes, error);
    if (status == STATUS_OK) status = read_settings(spec, &settings, error);
    if (status != STATUS_OK) return blame(field, "cache", status);
    status = caching_check_tables("cache_tables", spec->cache_tables, spec->n_cache_tables, LIMIT_JOB_TABLES,
                                  error);
    if (status != STATUS_OK) return blame(field, "cache_tables", status);
    if (spec->has_compare && spec->compare && !settings.policy)
        return blame(
            field, "compare",
            error_set(error, STATUS_INVALID, "compare: needs caching to compare with, and cache is off"));
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------------------- with a model */

/* Everything cache/settings.h needs to know of a job. `tables` are the job's, then the card's. */
struct caching {
    struct cache_settings settings;
    struct policy_job job;
    struct cache_plan plan;
    struct cache_table tables[LIMIT_JOB_TABLES + LIMIT_CARD_TABLES];
};

static bool made_for(const struct cache_table *table, const struct policy_job *job)
{
    return (table->steps == 0 || table->steps == job->steps) &&
           (table->shift == 0 || fabs(table->shift - job->shift) < 1e-6);
}

/* A model calibrated at several step counts has several tables of a kind, and the first that fits the model
 * is taken: those made for just such a job come before the others. */
static void take_tables(const Refrain__JobSpec *spec, const Refrain__ModelCard *card, struct caching *caching)
{
    int count = 0;
    for (size_t i = 0; i < spec->n_cache_tables && i < LIMIT_JOB_TABLES; i++)
        caching_table(spec->cache_tables[i], &caching->tables[count++]);
    for (int exact = 1; exact >= 0; exact--)
        for (size_t i = 0; i < card->n_tables && i < LIMIT_CARD_TABLES; i++) {
            struct cache_table table;
            caching_table(card->tables[i], &table);
            if (made_for(&table, &caching->job) == exact) caching->tables[count++] = table;
        }
    caching->job.tables = caching->tables;
    caching->job.table_count = count;
}

uint32_t caching_switch(const Refrain__JobSpec *spec, const Refrain__ModelCard *card)
{
    uint32_t steps = spec->has_steps ? spec->steps : DEFAULT_STEPS;
    Refrain__Solver solver = spec->has_solver && spec->solver != REFRAIN__SOLVER__SOLVER_MODEL_DEFAULT
                                 ? spec->solver
                                 : card->solver;
    const struct schedule schedule = {.kind = solver == REFRAIN__SOLVER__SOLVER_EULER ? SCHEDULE_EULER
                                                                                      : SCHEDULE_UNIPC,
                                      .shift = spec->has_shift ? spec->shift : card->shift,
                                      .terminal = solver == card->solver ? card->shift_terminal : 0,
                                      .train_steps = (int)card->train_steps};
    if (card->experts < 2 || card->train_steps == 0) return steps;
    return (uint32_t)schedule_switch(&schedule, card->boundary, (int)steps);
}

static status_t take_job(const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                         struct caching *caching, struct error *error)
{
    double guidance = spec->has_guidance ? spec->guidance : DEFAULT_GUIDANCE;
    status_t status = read_settings(spec, &caching->settings, error);
    caching->job = (struct policy_job){
        .steps = spec->has_steps ? (int)spec->steps : DEFAULT_STEPS,
        .layers = (int)card->layers,
        .branches = guidance > 1 ? 2 : 1,
        .shift = spec->has_shift ? spec->shift : card->shift,
        .model = {.layers = (int)card->layers,
                  .heads = (int)card->heads,
                  .head_dim = (int)card->head_dim,
                  .ffn_dim = (int)card->ffn_dim,
                  .latent_channels = (int)card->latent_channels,
                  .experts = (int)card->experts},
    };
    if (card->experts > 1) caching->job.switch_at = (int)caching_switch(spec, card);
    take_tables(spec, card, caching);
    return status;
}

static status_t make_plan(const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                          struct caching *caching, struct error *error)
{
    status_t status = take_job(spec, card, caching, error);
    if (status != STATUS_OK || !caching->settings.policy) return status;
    /* A card of an earlier build, still in the store. */
    if (card->latent_channels == 0)
        return error_set(error, STATUS_UNSUPPORTED,
                         "cache: model %s was added by an earlier version; add it once more with `refrain "
                         "models add`",
                         card->name ? card->name : "");
    memset(&caching->plan, 0, sizeof caching->plan);
    return cache_settings_plan(&caching->settings, &caching->job, &caching->plan, error);
}

status_t caching_check_for_model(const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                                 const char **field, struct error *error)
{
    struct caching caching;
    status_t status = make_plan(spec, card, &caching, error);
    return status == STATUS_OK ? STATUS_OK : blame(field, "cache", status);
}

status_t caching_foresee(const Refrain__JobSpec *spec, const Refrain__ModelCard *card,
                         struct caching_outlook *outlook, struct error *error)
{
    struct caching caching;
    status_t status = make_plan(spec, card, &caching, error);
    if (status != STATUS_OK) return status;
    *outlook = (struct caching_outlook){.branches = caching.job.branches, .certain = true};
    if (!caching.settings.policy) return STATUS_OK;
    const struct policy_plan *p = &caching.plan.policy;
    if (p->trace) return STATUS_OK; /* a calibration computes every step */
    outlook->by_blocks = p->site == SITE_BLOCKS;
    if (p->site == SITE_SPAN || p->site == SITE_BLOCKS) {
        outlook->head = p->head;
        outlook->tail = p->tail;
    }
    struct rehearsed found = {0};
    outlook->certain = cache_rehearse(&caching.settings, &caching.plan, &caching.job, &found);
    outlook->share = found.share;
    memcpy(outlook->expert_share, found.expert_share, sizeof outlook->expert_share);
    return STATUS_OK;
}

/* The values are allocated as an unpacked message has them. */
static Refrain__CacheTable *copy_table(const struct cache_table *table)
{
    Refrain__CacheTable *copy = malloc(sizeof *copy);
    if (!copy) return NULL;
    refrain__cache_table__init(copy);
#define PUT(name, number) (copy->has_##name = 1, copy->name = (number))
    PUT(layers, (uint32_t)table->model.layers);
    PUT(heads, (uint32_t)table->model.heads);
    PUT(head_dim, (uint32_t)table->model.head_dim);
    PUT(ffn_dim, (uint32_t)table->model.ffn_dim);
    PUT(latent_channels, (uint32_t)table->model.latent_channels);
    if (table->model.experts == 2) PUT(experts, 2);
    PUT(steps, (uint32_t)table->steps);
    PUT(shift, table->shift);
    PUT(width, (uint32_t)table->width);
#undef PUT
    copy->kind = strdup(table->kind);
    copy->name = strdup(table->name);
    copy->values = malloc((size_t)table->count * sizeof *copy->values);
    if (copy->kind && copy->name && copy->values) {
        copy->n_values = (size_t)table->count;
        memcpy(copy->values, table->values, copy->n_values * sizeof *copy->values);
        return copy;
    }
    refrain__cache_table__free_unpacked(copy, NULL);
    return NULL;
}

static status_t append_table(Refrain__JobSpec *spec, const struct cache_table *table)
{
    Refrain__CacheTable *copy = copy_table(table), **longer = NULL;
    if (copy) longer = realloc(spec->cache_tables, (spec->n_cache_tables + 1) * sizeof *longer);
    if (!longer) {
        if (copy) refrain__cache_table__free_unpacked(copy, NULL);
        return STATUS_NO_MEMORY;
    }
    spec->cache_tables = longer;
    longer[spec->n_cache_tables++] = copy;
    return STATUS_OK;
}

/* The card's table that a policy would find if it looked for a kind like `kind` now; NULL: none, or one that
 * the job has already or that is part of the program. */
static const struct cache_table *missing_table(const struct caching *caching, int own, const char *kind)
{
    const struct policy_job *job = &caching->job;
    const struct cache_table *found;
    for (int i = own; i < job->table_count; i++)
        if (kind_is(job->tables[i].kind, kind) &&
            table_find(job->tables[i].kind, job->tables, job->table_count, &job->model, &found, NULL) ==
                STATUS_OK &&
            found == &job->tables[i])
            return found;
    return NULL;
}

/* The job's own tables are looked at first, so one that the client sent is never replaced. Without any that
 * fits, caching_check_for_model says what to do. */
static status_t fill_tables(Refrain__JobSpec *spec, const Refrain__ModelCard *card, const char *kind)
{
    struct caching caching;
    const struct cache_table *missing;
    /* One too many is let in, for caching_check to refuse. */
    while (kind && spec->n_cache_tables <= LIMIT_JOB_TABLES &&
           take_job(spec, card, &caching, NULL) == STATUS_OK &&
           (missing = missing_table(&caching, (int)spec->n_cache_tables, kind)))
        if (append_table(spec, missing) != STATUS_OK) return STATUS_NO_MEMORY;
    return STATUS_OK;
}

/* A file of tables may hold several of a kind, made at other step counts, and the first that fits the model
 * is taken, by the ranks as well: those made for just such a job come first, then all others as they were
 * sent. */
static void order_tables(Refrain__JobSpec *spec, const Refrain__ModelCard *card)
{
    struct caching caching;
    size_t front = 0;
    if (take_job(spec, card, &caching, NULL) != STATUS_OK) return;
    for (size_t i = 0; i < spec->n_cache_tables; i++) {
        Refrain__CacheTable **tables = spec->cache_tables, *moved = tables[i];
        struct cache_table table;
        caching_table(moved, &table);
        if (!made_for(&table, &caching.job)) continue;
        memmove(tables + front + 1, tables + front, (i - front) * sizeof *tables);
        tables[front++] = moved;
    }
}

/* A text that would not read back (longer than there is room for) stays as the client wrote it. */
static status_t fill_text(Refrain__JobSpec *spec, const struct cache_settings *settings)
{
    char text[CACHE_TEXT_BYTES] = "off";
    struct cache_settings again;
    if (settings->policy) cache_settings_text(settings, text, sizeof text);
    if (spec->cache && settings->policy && cache_settings_read(text, &again, NULL) != STATUS_OK)
        return STATUS_OK;
    char *copy = strdup(text);
    if (!copy) return STATUS_NO_MEMORY;
    free(spec->cache);
    spec->cache = copy;
    return STATUS_OK;
}

status_t caching_fill(Refrain__JobSpec *spec, const Refrain__ModelCard *card, struct error *error)
{
    struct cache_settings settings;
    if (!spec->has_compare) spec->has_compare = 1, spec->compare = 0;
    if (read_settings(spec, &settings, NULL) != STATUS_OK) return STATUS_OK; /* refused by caching_check */
    status_t status = fill_text(spec, &settings);
    order_tables(spec, card);
    if (status == STATUS_OK && settings.policy) status = fill_tables(spec, card, settings.policy->table);
    if (status == STATUS_OK && settings.policy && settings.forecast)
        status = fill_tables(spec, card, settings.forecast->table);
    return status == STATUS_OK ? STATUS_OK : error_set(error, status, "no memory for the job");
}

/* ------------------------------------------------------------------------------------------------- budget */

/* "1.2 GiB" */
static const char *bytes_text(uint64_t bytes, char text[32])
{
    const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    double number = (double)bytes;
    int unit = 0;
    for (; number >= 1000 && unit < 4; unit++) number /= 1024;
    snprintf(text, 32, unit == 0 || number >= 100 ? "%.0f %s" : "%.1f %s", number, units[unit]);
    return text;
}

/* What lies in one slot of a ring, in words. */
static const char *slot_text(const struct policy_plan *plan, int64_t tokens, int64_t hidden, int64_t latent,
                             char text[64])
{
    if (plan->site == SITE_OUTPUT || plan->site == SITE_VELOCITY)
        snprintf(text, 64, "%" PRId64 " latent values", latent);
    else
        snprintf(text, 64, "%" PRId64 "x%" PRId64 "%s", tokens, hidden,
                 plan->site == SITE_BLOCKS ? " per block" : "");
    return text;
}

/* A forecast that keeps less helps only where the policy leaves the choice, and keeps no more by itself. */
static const char *slots_advice(const struct caching *caching)
{
    const struct policy_plan *plan = &caching->plan.policy;
    bool free_choice = !caching->settings.policy->weights && !plan->trace;
    if (free_choice && plan->slots <= 1 && caching->plan.slots > 2)
        return "fewer slots: forecast=taylor1 keeps 2, forecast=reuse 1";
    if (free_choice && plan->slots <= 1 && caching->plan.slots > 1)
        return "fewer slots: forecast=reuse keeps 1";
    return "a smaller or shorter video keeps less";
}

/* Elements of a job's tensors. */
struct extent {
    int64_t tokens, hidden, latent;
};

/* One latent frame for the first video frame, then one for each frame_multiple; one frame per token. */
static struct extent extent_of(const Refrain__JobSpec *spec, const Refrain__ModelCard *card)
{
    int64_t frames = (spec->frames - 1) / card->frame_multiple + 1;
    int64_t rows = spec->height / card->vae_scale, columns = spec->width / card->vae_scale;
    return (struct extent){.tokens = frames * (rows / card->patch) * (columns / card->patch),
                           .hidden = (int64_t)card->heads * card->head_dim,
                           .latent = (int64_t)card->latent_channels * frames * rows * columns};
}

static uint64_t planned_bytes(struct caching *caching, const struct extent *extent)
{
    return cache_plan_bytes(&caching->settings, &caching->plan, &caching->job, extent->tokens, extent->hidden,
                            extent->latent);
}

int64_t caching_tokens(const Refrain__JobSpec *spec, const Refrain__ModelCard *card)
{
    return extent_of(spec, card).tokens;
}

uint64_t caching_bytes(const Refrain__JobSpec *spec, const Refrain__ModelCard *card)
{
    struct caching caching;
    const struct extent extent = extent_of(spec, card);
    if (make_plan(spec, card, &caching, NULL) != STATUS_OK || !caching.settings.policy) return 0;
    return planned_bytes(&caching, &extent);
}

status_t caching_check_bytes(const Refrain__JobSpec *spec, const Refrain__ModelCard *card, uint64_t limit,
                             const char **field, struct error *error)
{
    struct caching caching;
    char slot[64], needed[32], allowed[32];
    const struct extent extent = extent_of(spec, card);
    const int64_t tokens = extent.tokens, hidden = extent.hidden, latent = extent.latent;
    status_t status = make_plan(spec, card, &caching, error);
    if (status != STATUS_OK) return blame(field, "cache", status);
    if (!caching.settings.policy) return STATUS_OK;
    uint64_t bytes = planned_bytes(&caching, &extent);
    if (bytes <= limit) return STATUS_OK;
    int slots = caching.plan.slots, branches = caching.plan.rings;
    return blame(
        field, "cache",
        error_set(error, STATUS_NO_MEMORY,
                  "cache: keeping %d slot%s of %s for %d branch%s takes %s, at most %s is allowed (%s)",
                  slots, slots == 1 ? "" : "s", slot_text(&caching.plan.policy, tokens, hidden, latent, slot),
                  branches, branches == 1 ? "" : "es", bytes_text(bytes, needed), bytes_text(limit, allowed),
                  slots_advice(&caching)));
}

/* ------------------------------------------------------------------------------------------------ reports */

/* Absent, or one byte for every step of every branch, each a number of the enum. */
static bool bytes_fit(bool given, const ProtobufCBinaryData *bytes, size_t cells, int largest)
{
    if (!given) return true;
    if (bytes->len != cells) return false;
    for (size_t i = 0; i < bytes->len; i++)
        if (bytes->data[i] > largest) return false;
    return true;
}

static bool blocks_fit(const Refrain__CacheReport *report, size_t cells)
{
    size_t blocks = report->n_block_computed;
    if (blocks != report->n_block_reused || blocks > LIMIT_TABLE_LAYERS) return false;
    for (size_t i = 0; i < blocks; i++)
        if ((uint64_t)report->block_computed[i] + report->block_reused[i] > cells) return false;
    return true;
}

static bool seconds_fit(bool given, double seconds)
{
    return !given || (isfinite(seconds) && seconds >= 0);
}

/* Equal videos have no finite PSNR, so infinity is a value there. */
static bool comparison_fits(const Refrain__Comparison *c)
{
    return !(c->has_psnr && isnan(c->psnr)) && !(c->has_psnr_worst && isnan(c->psnr_worst)) &&
           (!c->has_ssim || fabs(c->ssim) <= 1.0001) && seconds_fit(c->has_perceptual, c->perceptual) &&
           seconds_fit(c->has_cached_seconds, c->cached_seconds) &&
           seconds_fit(c->has_uncached_seconds, c->uncached_seconds);
}

status_t caching_check_report(Refrain__CacheReport *report, const Refrain__JobSpec *spec, struct error *error)
{
    uint32_t most = spec->guidance > 1 ? 2 : 1;
    size_t cells = (size_t)spec->steps * report->branches;
    const char *wrong = NULL;
    if (report->branches < 1 || report->branches > most)
        wrong = "branches";
    else if (!report->policy || strlen(report->policy) >= CACHE_TEXT_BYTES)
        wrong = "policy";
    else if ((uint64_t)report->computed + report->reused + report->forecast > cells)
        wrong = "counts";
    else if (!bytes_fit(report->has_actions, &report->actions, cells, REFRAIN__CACHE_ACTION__CACHE_PARTLY))
        wrong = "actions";
    else if (!bytes_fit(report->has_reasons, &report->reasons, cells, REASONS - 1))
        wrong = "reasons";
    else if (report->n_changes != 0 && report->n_changes != cells)
        wrong = "changes";
    else if (!blocks_fit(report, cells))
        wrong = "blocks";
    else if (!seconds_fit(report->has_computed_seconds, report->computed_seconds) ||
             !seconds_fit(report->has_reused_seconds, report->reused_seconds) ||
             !seconds_fit(report->has_run_seconds, report->run_seconds) ||
             (report->has_seconds_saved && !isfinite(report->seconds_saved)))
        wrong = "seconds";
    else if (report->comparison && !comparison_fits(report->comparison))
        wrong = "comparison";
    else if (report->has_switch_at && report->switch_at >= spec->steps)
        wrong = "switch_at";
    if (wrong)
        return error_set(error, STATUS_CORRUPT,
                         "cache report: its %s do not fit a job of %u steps and %u branch%s", wrong,
                         spec->steps, most, most == 1 ? "" : "es");
    for (size_t i = 0; i < report->n_changes; i++)
        if (!isfinite(report->changes[i])) report->changes[i] = CHANGE_NONE;
    return STATUS_OK;
}
