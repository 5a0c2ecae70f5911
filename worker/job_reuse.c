/*
 * job_reuse.c - texts and first steps that a job takes from the cache tier and gives to it. Home's compute thread.
 *
 * Both are exact: the text encoder's answer to a prompt, and what the model makes of the first step, which depends
 * on noise and the branch's text but neither on how many steps there are, nor on guidance, nor on which branch it is.
 * A job asks for all of it when it begins, unless its steps are there as a whole (job_run.c); while an answer is on its
 * way, and may come in time, its text waits.
 *
 * A first step is only taken by a run without caching: a policy wants to see hidden states that were not computed. It is
 * given by every run, because no policy skips a first step.
 */
#include <stdlib.h>
#include <string.h>

#include "worker/job_state.h"
#include "worker/model/noise.h"
#include "worker/tier.h"

enum {
    WAIT_LEAST_MS = 10,
    WAIT_UNKNOWN_MS = 100, /* nothing was encoded yet */
    WAIT_MOST_MS = 2000,
};

/* ----------------------------------------------------------------------------------------------------- keys */

struct text_facts job_text_facts(const struct job *j, int branch)
{
    const struct model *m = j->engine->model;
    return (struct text_facts){.encoder = m->identity.text_encoder,
                               .tokenizer = m->identity.tokenizer,
                               .numerics = tier_numerics(j->engine->tier),
                               .text = j->prompt[branch],
                               .bytes = strlen(j->prompt[branch]),
                               .rows = (uint32_t)m->config.text_length,
                               .element = ELEMENT_F32};
}

static struct first_step_facts first_step_facts(const struct job *j, int branch)
{
    const struct job_order *o = &j->order;
    return (struct first_step_facts){.weights = j->engine->model->identity.rest,
                                     .numerics = tier_numerics(j->engine->tier),
                                     .text = job_text_facts(j, branch),
                                     .picture = {.width = (uint32_t)o->width,
                                                 .height = (uint32_t)o->height,
                                                 .frames = (uint32_t)o->frames},
                                     .noise = {.seed = o->seed, .generator = NOISE_GENERATOR},
                                     .sigma = solver_sigma(j->solver[0], 0),
                                     .timestep = solver_timestep(j->solver[0], 0),
                                     .element = ELEMENT_F32};
}

/* A tenth of what encoding took lately, which is what waiting may cost. */
static int64_t patience_ns(const struct engine *e)
{
    int64_t tenth = (int64_t)(e->text_seconds / 10 * (double)SECOND_NS);
    int64_t least = WAIT_LEAST_MS * MILLISECOND_NS, most = WAIT_MOST_MS * MILLISECOND_NS;
    if (!(e->text_seconds > 0)) return WAIT_UNKNOWN_MS * MILLISECOND_NS;
    return tenth < least ? least : tenth > most ? most : tenth;
}

/* ---------------------------------------------------------------------------------------------------- asking */

static void ask(struct job *j, struct ask *ask)
{
    if (ask->state != ASK_WAITS) return;
    status_t status = tier_ask(j->engine->tier, &ask->query, &ask->view);
    if (status != STATUS_AGAIN) ask->state = status == STATUS_OK ? ASK_HERE : ASK_MISSED;
}

static void begin_ask(struct job *j, struct ask *one, status_t keyed)
{
    one->state = ASK_MISSED;
    one->keyed = keyed == STATUS_OK && key_tenant(j->tenant, &one->query.tenant, NULL) == STATUS_OK;
    if (!one->keyed) return;
    one->query.deadline_ns = clock_now_ns() + patience_ns(j->engine);
    one->query.device = true; /* ops alone read it */
    one->state = ASK_WAITS;
}

/* A job that goes on from a checkpoint has its first step behind it. */
static void begin_asking(struct job *j)
{
    const struct model *m = j->engine->model;
    bool known = j->engine->tier && m->identity.text_encoder && m->identity.tokenizer && m->identity.rest;
    bool takes_step = !j->order.recompute && !j->resumed && (j->passes > 1 || !j->cache);
    j->asked = true;
    for (int b = 0; b < j->branches; b++) {
        struct text_facts text = job_text_facts(j, b);
        struct first_step_facts step = first_step_facts(j, b);
        struct ask *of_text = &j->text_ask[b], *of_step = &j->step_ask[b];
        begin_ask(j, of_text,
                  known ? key_of_text(j->tenant, &text, &of_text->query.key, NULL) : STATUS_UNSUPPORTED);
        begin_ask(j, of_step,
                  known ? key_of_first_step(j->tenant, &step, &of_step->query.key, NULL)
                        : STATUS_UNSUPPORTED);
        if (!takes_step) of_step->state = ASK_MISSED;
    }
}

void job_tend(struct job *j)
{
    if (j->life != LIFE_TEXT) return;
    job_tend_run(j);
    if (j->life != LIFE_TEXT || job_run_waits(j)) return;
    if (!j->asked) begin_asking(j);
    for (int b = 0; b < j->branches; b++) {
        ask(j, &j->text_ask[b]);
        ask(j, &j->step_ask[b]);
    }
}

static bool text_waits(const struct job *j)
{
    return j->asked && !j->text_run && !j->text_rows && j->text_ask[j->text_branch].state == ASK_WAITS;
}

bool job_reuse_waits(const struct job *j)
{
    return job_run_waits(j) || text_waits(j);
}

int64_t job_reuse_deadline_ns(const struct job *j)
{
    if (j->life != LIFE_TEXT) return CLOCK_NEVER;
    if (job_run_waits(j)) return job_run_deadline_ns(j);
    return text_waits(j) ? j->text_ask[j->text_branch].query.deadline_ns : CLOCK_NEVER;
}

static void let_go(struct job *j, struct ask *ask)
{
    if (ask->state == ASK_HERE) tier_release(j->engine->tier, &ask->view);
    ask->state = ASK_MISSED;
}

void job_reuse_end(struct job *j)
{
    for (int b = 0; b < BRANCHES; b++) {
        let_go(j, &j->text_ask[b]);
        let_go(j, &j->step_ask[b]);
    }
    job_run_end(j);
}

/* ------------------------------------------------------------------------------------------------ what is made */

/* Of a tensor on the device. That nobody wants it is no failure. */
static status_t give(struct job *j, const struct ask *ask, const void *tensor, size_t bytes, double seconds,
                     struct error *error)
{
    struct engine *e = j->engine;
    struct draft draft;
    if (!ask->keyed ||
        tier_reserve_device(e->tier, ask->query.tenant, &ask->query.key, bytes, seconds, &draft, NULL))
        return STATUS_OK;
    e->ops->copy(e->team, draft.bytes, tensor, bytes);
    status_t status = engine_wait(e, error);
    if (status == STATUS_OK)
        tier_commit(e->tier, &draft);
    else
        tier_abort(e->tier, &draft);
    return status;
}

/* ----------------------------------------------------------------------------------------------------- text */

static size_t text_row_bytes(const struct job *j)
{
    return (size_t)j->engine->model->config.text.width * sizeof(float);
}

/* The item is [ids, width]. What does not fit is not used. */
bool job_take_text(struct job *j, struct error *error, status_t *status)
{
    struct engine *e = j->engine;
    struct ask *ask = &j->text_ask[j->text_branch];
    struct branch *b = &j->branch[j->text_branch];
    size_t row = text_row_bytes(j), most = row * (size_t)e->model->config.text_length;
    if (ask->state != ASK_HERE) return false;
    if (ask->view.size == 0 || ask->view.size % row || ask->view.size > most) {
        let_go(j, ask);
        return false;
    }
    *status = e->ops->allocate(MEMORY_DEVICE, ask->view.size, &j->text_rows, error);
    if (*status != STATUS_OK) return true;
    b->ids = (int)(ask->view.size / row);
    e->ops->copy(e->team, j->text_rows, ask->view.bytes, ask->view.size);
    j->status.texts_reused++;
    j->status.reused_seconds += ask->view.seconds;
    return true;
}

void job_text_used(struct job *j)
{
    let_go(j, &j->text_ask[j->text_branch]);
}

status_t job_give_text(struct job *j, double seconds, struct error *error)
{
    struct engine *e = j->engine;
    size_t bytes = text_row_bytes(j) * (size_t)j->branch[j->text_branch].ids;
    e->text_seconds = e->text_seconds > 0 ? 0.8 * e->text_seconds + 0.2 * seconds : seconds;
    return give(j, &j->text_ask[j->text_branch], j->text_rows, bytes, seconds, error);
}

/* --------------------------------------------------------------------------------------------- the first step */

static bool is_first(const struct job *j)
{
    return j->step == 0 && j->pass == 0 && !j->replaying && !j->inherited;
}

bool job_take_first_step(struct job *j, int branch)
{
    struct engine *e = j->engine;
    struct ask *one = &j->step_ask[branch];
    size_t bytes = (size_t)j->latent_count * sizeof(float);
    if (!is_first(j) || j->reuse) return false;
    ask(j, one);
    if (one->state == ASK_HERE && one->view.size != bytes) let_go(j, one);
    if (one->state != ASK_HERE) return false;
    e->ops->copy(e->team, j->branch[branch].velocity, one->view.bytes, bytes);
    j->status.first_steps_reused++;
    j->status.reused_seconds += one->view.seconds;
    return true;
}

/* The branch's own, computed whole: policies may keep what they like of it, but they skip nothing of a first step. */
static bool was_computed(const struct job *j, int branch)
{
    struct reuse_report report;
    if (!j->reuse) return true;
    reuse_describe(j->reuse, &report);
    return report.actions[branch] == REUSE_COMPUTED;
}

status_t job_give_first_step(struct job *j, double seconds, struct error *error)
{
    status_t status = STATUS_OK;
    int made = 0;
    if (!is_first(j)) return STATUS_OK;
    for (int b = 0; b < j->branches; b++) made += j->step_ask[b].state != ASK_HERE;
    for (int b = 0; b < j->branches && status == STATUS_OK; b++) {
        bool own = j->step_ask[b].state != ASK_HERE;
        if (own && was_computed(j, b))
            status = give(j, &j->step_ask[b], j->branch[b].velocity, (size_t)j->latent_count * sizeof(float),
                          seconds / made, error);
        let_go(j, &j->step_ask[b]); /* the wait that ended the step is behind us */
    }
    return status;
}
