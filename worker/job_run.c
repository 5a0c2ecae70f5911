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
 * The item is a checkpoint (job_save.c) of all steps: beside the latent it has the verdicts and times, so that what a job
 * reports of its caching is what the run did. Before its text is encoded a job asks for it, and waits for an answer that is
 * on its way; it is given whenever a pass has been made.
 */
#include <string.h>
#include <xxhash.h>

#include "base/log.h"
#include "cache/calibration.h"
#include "worker/job_state.h"
#include "worker/model/noise.h"

enum { WAIT_MS = 2000 };

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

static void begin_ask(struct job *j)
{
    struct ask *ask = &j->latent_ask;
    const struct run *run = &j->run[j->pass];
    ask->state = ASK_MISSED;
    if (j->order.recompute || !run->keyed || key_tenant(j->tenant, &ask->query.tenant, NULL) != STATUS_OK)
        return;
    ask->query.key = run->key;
    ask->query.deadline_ns = clock_now_ns() + WAIT_MS * MILLISECOND_NS;
    ask->state = ASK_WAITS;
}

/* What cannot be used is as if it were not there. */
static void take(struct job *j)
{
    struct error error;
    struct ask *ask = &j->latent_ask;
    unsigned long number = (unsigned long)j->order.job;
    int pass = j->pass;
    bool fragile = j->resumed && j->cache;
    status_t status = job_adopt(j, ask->view.bytes, ask->view.size, &error);
    job_run_end(j);
    if (status == STATUS_OK) {
        log_line(LOG_INFO, "job %lu: takes the latent of an equal run", number);
        if (j->pass != pass) begin_ask(j); /* the other run */
        return;
    }
    log_line(LOG_WARN, "job %lu: an equal run's latent cannot be used: %s", number, error.text);
    if (fragile && status == STATUS_CORRUPT) job_fail(j, &error);
}

void job_tend_run(struct job *j)
{
    struct ask *ask = &j->latent_ask;
    if (!j->named) {
        name_runs(j);
        begin_ask(j);
    }
    while (j->life == LIFE_TEXT && ask->state == ASK_WAITS) {
        status_t status = tier_ask(j->engine->tier, &ask->query, &ask->view);
        if (status == STATUS_AGAIN) return;
        ask->state = status == STATUS_OK ? ASK_HERE : ASK_MISSED;
        if (status == STATUS_OK) take(j);
    }
}

bool job_run_waits(const struct job *j)
{
    return j->latent_ask.state == ASK_WAITS;
}

void job_run_end(struct job *j)
{
    if (j->latent_ask.state == ASK_HERE) tier_release(j->engine->tier, &j->latent_ask.view);
    j->latent_ask.state = ASK_MISSED;
}

/* ---------------------------------------------------------------------------------------------------- giving */

/* That nobody wants it is no failure; nor is a device that fails: then the next wait says so. */
void job_give_latent(struct job *j)
{
    const struct run *run = &j->run[j->pass];
    struct tier *tier = j->engine->tier;
    struct draft draft;
    size_t bytes = run->keyed ? job_save_run_bytes(j) : 0;
    if (!bytes || tier_reserve(tier, run->key.tenant, &run->key, bytes, j->run_seconds, &draft, NULL)) return;
    if (job_save_run(j, draft.bytes, bytes, NULL) == STATUS_OK)
        tier_commit(tier, &draft);
    else
        tier_abort(tier, &draft);
}
