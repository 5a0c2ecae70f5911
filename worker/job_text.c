/*
 * job_text.c - a job's prompts on their way to what the blocks attend to. Home's compute thread.
 *
 * One piece a call, branch after branch: the ids, each layer of the text encoder, then for each expert the keys and
 * values of all blocks held here.
 */
#include <stdlib.h>
#include <string.h>

#include "worker/job_state.h"

/* What somebody else made, or the first piece of making it. */
static status_t begin_prompt(struct job *j, struct branch *b, struct error *error)
{
    status_t taken;
    if (job_take_text(j, error, &taken)) return taken;
    j->text_began_ns = clock_now_ns();
    struct engine *e = j->engine;
    const struct model *m = e->model;
    int limit = m->config.text_length;
    int32_t *ids = malloc((size_t)limit * sizeof *ids);
    status_t status =
        ids ? tokenizer_encode(m->tokenizer, j->prompt[j->text_branch], limit, ids, &b->ids, error)
            : error_set(error, STATUS_NO_MEMORY, "no memory for a prompt");
    if (status != STATUS_OK) goto out;
    size_t bytes = (size_t)b->ids * (size_t)m->config.text.width * sizeof(float);
    status = e->ops->allocate(MEMORY_DEVICE, bytes, &j->text_rows, error);
    if (status == STATUS_OK)
        status = text_encoder_begin(m->text_encoder, e->team, ids, b->ids, j->text_rows, &j->text_run, error);
out:
    free(ids);
    return status;
}

size_t job_policy_bytes(const struct job *j)
{
    return j->cache && reuse_plan(j->cache)->policy.site == SITE_BLOCKS ? strlen(j->policy) : 0;
}

/* Behind the text, on both sides, for every OPEN there will be: stage after stage is told, and told again, while the fabric reads. */
static void add_policy(const struct job *j, struct cargo *text)
{
    const struct ops *ops = j->engine->ops;
    size_t bytes = job_policy_bytes(j);
    memcpy(cargo_tail(text), j->policy, bytes);
    if (bytes && !ops->local) ops->copy(j->engine->team, text->device + text->body, cargo_tail(text), bytes);
    text->constant = true;
}

static status_t make_context(struct job *j, struct branch *b, int expert, struct error *error)
{
    struct engine *e = j->engine;
    const struct model *m = e->model;
    const struct denoiser *d = m->denoiser[expert];
    struct cargo *cargo = &b->text[expert];
    int limit = m->config.text_length;
    float *text = (float *)(void *)cargo->device;
    cargo->body =
        (size_t)denoiser_text_rows(b->ids, limit) * (size_t)m->config.denoiser.hidden * sizeof *text;
    status_t status = denoiser_text(d, e->team, j->text_rows, b->ids, limit, text, error);
    if (status != STATUS_OK) return status;
    add_policy(j, cargo);
    return engine_context_create(e, expert, (int)(b - j->branch), text, b->ids, &b->context[expert], error);
}

static status_t make_contexts(struct job *j, struct branch *b, struct error *error)
{
    status_t status = STATUS_OK;
    for (int e = j->first_expert; e <= j->last_expert && status == STATUS_OK; e++)
        status = make_context(j, b, e, error);
    if (status != STATUS_OK) return status;
    j->engine->ops->release(MEMORY_DEVICE, j->text_rows); /* denoiser_text has waited */
    j->text_rows = NULL;
    job_text_used(j);
    return STATUS_OK;
}

status_t job_encode_text(struct job *j, bool *done, struct error *error)
{
    struct branch *b = &j->branch[j->text_branch];
    status_t status = STATUS_OK;
    *done = false;
    if (job_reuse_waits(j)) return STATUS_AGAIN;
    if (j->text_run) {
        bool last = text_encoder_layer(j->text_run, j->engine->team);
        j->work += (uint64_t)b->ids;
        if (last) {
            status = engine_wait(j->engine, error);
            text_encoder_end(j->text_run);
            j->text_run = NULL;
            if (status == STATUS_OK) status = job_give_text(j, job_seconds_since(j->text_began_ns), error);
        }
    } else if (!j->text_rows) {
        status = begin_prompt(j, b, error);
    } else {
        status = make_contexts(j, b, error);
        *done = status == STATUS_OK && ++j->text_branch == j->branches;
    }
    atomic_fetch_add(&j->engine->progress, 1);
    return status;
}
