/*
 * job_run.c - runs: what the steps of a job make, under a name that any job with the same facts finds. Home's compute
 * thread.
 *
 * A run is one pass over the steps: a job that compares has two, one without caching, and either may have been made by a
 * job that does not compare. It is named by the key of its last latent, which holds everything it depends on: texts, size,
 * noise, solver, steps, guidance, policy, weights, numerics (cache/tier/key.h). A job that goes on from another's
 * checkpoint with nothing changed is that one's run; with something changed it is a run that depends on that one and the
 * step, and on noise no more. A run that calibrates is of a kind of its own, `table`, which can be everybody's.
 *
 * The items are checkpoints (job_save.c): of all steps the last latent, before that those of marks. Beside the latent they
 * have verdicts and times, so that what a job reports of its caching is what the run did. Before its text is encoded a job
 * asks the coordinator how far somebody has come, and takes that: out of its rank's store or another's, or from the vault
 * (home brings it). Every wait has an end; what fails is as if nobody had anything.
 */
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "cache/calibration.h"
#include "worker/job_state.h"
#include "worker/model/noise.h"

#define SEEK_NS        (2 * SECOND_NS) /* the coordinator's answer: of a live one it takes a millisecond */
#define FETCH_LEAST_NS (200 * MILLISECOND_NS)
#define FETCH_MOST_NS  (60 * SECOND_NS)

/* ----------------------------------------------------------------------------------------------------- names */

/* Where guidance of the second expert is not said it is the first one's. */
static double second_guidance(const struct job *j)
{
    if (j->engine->model->config.experts < 2) return 0;
    return j->order.guides_apart ? j->order.guidance_2 : j->order.guidance;
}

/* Of a job's pass: only the last one has its caching. */
static struct run_facts run_facts(const struct job *j, int pass)
{
    const struct job_order *o = &j->order;
    bool cached = j->cache && pass + 1 == j->passes;
    return (struct run_facts){.weights = j->engine->model->identity.rest,
                              .numerics = tier_numerics(j->engine->tier),
                              .positive = job_text_facts(j, 0),
                              .negative = job_text_facts(j, 1),
                              .picture = {.width = (uint32_t)o->width,
                                          .height = (uint32_t)o->height,
                                          .frames = (uint32_t)o->frames},
                              .noise = {.seed = o->seed, .generator = NOISE_GENERATOR},
                              .solver = (uint32_t)o->solver,
                              .order = (uint32_t)j->engine->model->config.solver.order,
                              .shift = o->shift,
                              .steps = (uint32_t)o->steps,
                              .guidance = o->guidance,
                              .guidance_2 = second_guidance(j),
                              .policy = cached ? j->policy : "",
                              .tables = cached ? job_tables_hash(j) : 0,
                              .element = ELEMENT_F32};
}

/* Every step computed and measured: what `refrain calibrate` has made. */
static bool calibrates(const struct job *j, int pass)
{
    return j->cache && pass + 1 == j->passes && reuse_plan(j->cache)->policy.trace;
}

/* Texts, noise, and what made rows of the texts. */
static status_t prompts_of(const struct run_facts *facts, uint64_t *prompts)
{
    struct {
        struct key positive, negative;
        struct noise_facts noise;
    } all;
    memset(&all, 0, sizeof all); /* gaps are hashed, too */
    status_t status = key_of_text(NULL, &facts->positive, &all.positive, NULL);
    if (status == STATUS_OK && facts->guidance > 1)
        status = key_of_text(NULL, &facts->negative, &all.negative, NULL);
    all.noise.seed = facts->noise.seed;
    all.noise.generator = facts->noise.generator;
    *prompts = XXH3_64bits(&all, sizeof all);
    return status;
}

/* With the standard prompts it depends on the model and on numbers, and is everybody's; with words of somebody's own it
 * is his. */
static status_t name_calibration(const struct job *j, const struct run_facts *facts, struct key *key)
{
    bool guided = facts->guidance > 1; /* otherwise how little does not matter */
    struct table_facts table = {.weights = facts->weights,
                                .adapters = facts->adapters,
                                .numerics = facts->numerics,
                                .method = facts->policy,
                                .picture = facts->picture,
                                .solver = facts->solver,
                                .order = facts->order,
                                .steps = facts->steps,
                                .shift = facts->shift,
                                .guidance = guided ? facts->guidance : 1,
                                .guidance_2 = guided ? facts->guidance_2 : 0};
    bool standard = calibration_is_standard(j->prompt[0], j->prompt[1], facts->noise.seed);
    status_t status = prompts_of(facts, &table.prompts);
    return status == STATUS_OK ? key_of_table(standard ? NULL : j->tenant, &table, key, NULL) : status;
}

/* The pass that the job was restored into goes on with the run it came from, or depends on it. What was made with other
 * numerics, or is not known, leaves a run without a name. */
static void name_run(struct job *j, int pass)
{
    struct run *run = &j->run[pass];
    struct run_facts facts = run_facts(j, pass);
    bool restored = j->resumed && pass == j->pass;
    if (restored && !j->from_run.known) return;
    if (restored && !j->from_run.changed) {
        *run = (struct run){true, j->from_run.key};
        return;
    }
    if (restored) {
        facts.origin = &j->from_run.key;
        facts.origin_step = (uint32_t)j->resume_step;
    }
    status_t status = calibrates(j, pass) && !restored ? name_calibration(j, &facts, &run->key)
                                                       : key_of_latent(j->tenant, &facts, &run->key, NULL);
    run->keyed = status == STATUS_OK;
}

static void name_runs(struct job *j)
{
    const struct model *m = j->engine->model;
    j->named = true;
    if (!j->engine->tier || !m->identity.text_encoder || !m->identity.tokenizer || !m->identity.rest) return;
    for (int pass = j->pass; pass < j->passes; pass++) name_run(j, pass);
}

/* -------------------------------------------------------------------------------------------------- taking */

/* Half of what it saves is what fetching it may take. */
static int64_t patience_ns(const struct tier_seek *seek)
{
    int64_t half = seek->seconds < 1e6 ? (int64_t)(seek->seconds / 2 * (double)SECOND_NS) : FETCH_MOST_NS;
    return half < FETCH_LEAST_NS ? FETCH_LEAST_NS : half > FETCH_MOST_NS ? FETCH_MOST_NS : half;
}

/* durable: of the vault alone. */
static void begin_seeking(struct job *j, bool durable)
{
    const struct run *run = &j->run[j->pass];
    struct tier_seek *seek = &j->seek;
    uint64_t tenant;
    j->taking = TAKING_NOTHING;
    if (j->order.recompute || !run->keyed || key_tenant(j->tenant, &tenant, NULL) != STATUS_OK) return;
    *seek = (struct tier_seek){.run = run->key,
                               .tenant = tenant,
                               .after = (uint32_t)(j->resumed ? j->resume_step : 0),
                               .steps = (uint32_t)j->order.steps,
                               .durable = durable,
                               .deadline_ns = clock_now_ns() + SEEK_NS};
    j->taking = TAKING_SEEKS;
}

/* Somebody has made steps: they are here, on another rank, or in the vault. */
static void begin_taking(struct job *j)
{
    struct tier_query *query = &j->run_query;
    const struct tier_seek *seek = &j->seek;
    query->deadline_ns = clock_now_ns() + patience_ns(seek);
    query->tenant = seek->tenant;
    j->taking = tier_run_key(&seek->run, seek->step, seek->steps, &query->key) != STATUS_OK ? TAKING_NOTHING
                : seek->vault.bytes                                                         ? TAKING_VAULT
                                                                                            : TAKING_ITEM;
}

/* What cannot be used is as if it were not there: maybe the vault's can. */
static void take(struct job *j, const void *bytes, size_t size)
{
    struct error error;
    unsigned long number = (unsigned long)j->order.job;
    int pass = j->pass;
    bool durable = j->seek.durable || j->taking == TAKING_VAULT;
    status_t status = job_adopt(j, bytes, size, &error);
    j->taking = TAKING_NOTHING;
    if (status == STATUS_OK) {
        log_line(LOG_INFO, "job %lu: takes %u steps of an equal run", number, j->seek.step);
        if (j->pass != pass) begin_seeking(j, false); /* the other run */
        return;
    }
    log_line(LOG_WARN, "job %lu: what an equal run made cannot be used: %s", number, error.text);
    if (!durable) begin_seeking(j, true);
}

static void seek(struct job *j)
{
    status_t status = tier_seek(j->engine->tier, &j->seek);
    if (status == STATUS_OK)
        begin_taking(j);
    else if (status != STATUS_AGAIN)
        j->taking = TAKING_NOTHING;
}

static void ask_for_item(struct job *j)
{
    struct view view;
    status_t status = tier_ask(j->engine->tier, &j->run_query, &view);
    if (status == STATUS_OK) {
        take(j, view.bytes, view.size);
        tier_release(j->engine->tier, &view);
    } else if (status != STATUS_AGAIN) {
        begin_seeking(j, true);
    }
}

void job_tend_run(struct job *j)
{
    enum taking before;
    if (!j->named) {
        name_runs(j);
        begin_seeking(j, false);
    }
    do {
        before = j->taking;
        if (j->taking == TAKING_SEEKS)
            seek(j);
        else if (j->taking == TAKING_ITEM)
            ask_for_item(j);
    } while (j->life == LIFE_TEXT && j->taking != before);
}

bool job_run_waits(const struct job *j)
{
    return j->life == LIFE_TEXT && j->taking != TAKING_NOTHING;
}

int64_t job_run_deadline_ns(const struct job *j)
{
    return j->taking == TAKING_SEEKS ? j->seek.deadline_ns : j->run_query.deadline_ns;
}

const struct checkpoint_name *job_wants(const struct job *j)
{
    return job_run_waits(j) && !j->cancelled && j->taking == TAKING_VAULT ? &j->seek.vault : NULL;
}

/* It becomes an item here, where there is room for it. */
void job_bring(struct job *j, const void *bytes, size_t size)
{
    struct view view;
    struct tier *tier = j->engine->tier;
    const struct tier_query *query = &j->run_query;
    if (j->taking != TAKING_VAULT) return;
    if (!bytes) {
        j->taking = TAKING_NOTHING;
        return;
    }
    bool here =
        tier_bring(tier, query->tenant, &query->key, bytes, size, j->seek.seconds, &view) == STATUS_OK;
    take(j, bytes, size);
    if (here) tier_release(tier, &view);
}

void job_run_end(struct job *j)
{
    if (j->engine->tier) tier_seek_end(j->engine->tier, &j->seek);
    j->taking = TAKING_NOTHING;
}

/* ---------------------------------------------------------------------------------------------------- giving */

struct run_point job_run_point(const struct job *j)
{
    const struct run *run = &j->run[j->pass];
    if (!run->keyed) return (struct run_point){.step = 0};
    return (struct run_point){.run = run->key, .step = (uint32_t)j->step, .seconds = j->run_seconds};
}

/* That nobody wants it is no failure; nor is a device that fails: then the next wait says so. */
static bool give(struct job *j, const struct key *key)
{
    struct tier *tier = j->engine->tier;
    struct draft draft;
    size_t bytes = job_save_run_bytes(j);
    if (!bytes || tier_reserve(tier, key->tenant, key, bytes, j->run_seconds, &draft, NULL)) return false;
    bool saved = job_save_run(j, draft.bytes, bytes, NULL) == STATUS_OK;
    if (saved)
        tier_commit(tier, &draft);
    else
        tier_abort(tier, &draft);
    return saved;
}

void job_give_checkpoint(struct job *j)
{
    struct key key;
    const struct run *run = &j->run[j->pass];
    if (j->step == j->order.steps || !run->keyed) return;
    if (tier_run_key(&run->key, (uint32_t)j->step, (uint32_t)j->order.steps, &key) == STATUS_OK)
        give(j, &key);
}

void job_give_latent(struct job *j)
{
    const struct run *run = &j->run[j->pass];
    if (run->keyed && give(j, &run->key))
        tier_forget_steps(j->engine->tier, &run->key, (uint32_t)j->order.steps);
}
