/*
 * job_residual.c - a job's residuals when it moves: what computed steps added to the hidden state. Home's compute thread.
 *
 * A checkpoint holds no hidden states; a job that goes on from one makes the steps again whose residuals its policy's
 * history holds (cache/reuse_save.c). A home whose epoch ends while it lives still has them, and gives them to the tier, each
 * by itself, named by the run, the step that made it, branch and blocks. Whoever goes on with the job, there or elsewhere,
 * asks for those it needs before its text is encoded, and puts them where it would run the blocks; what does not come in
 * time is made again. The head blocks and all that a policy measures are made again in either case, so that nothing but the
 * span's blocks is replaced. The bits are the same: the residual is those of the same blocks over the same latent.
 */
#include "base/log.h"
#include "worker/job_state.h"

#define WAIT_LEAST_NS (10 * MILLISECOND_NS)
#define WAIT_MOST_NS  (60 * SECOND_NS)

static status_t key_of(const struct job *j, int step, int branch, struct key *key)
{
    const struct residual_facts facts = {.step = (uint32_t)step,
                                         .branch = (uint32_t)branch,
                                         .block_begin = (uint32_t)j->span_begin,
                                         .block_end = (uint32_t)j->span_end};
    return j->run[j->pass].keyed ? key_of_residual(&j->run[j->pass].key, &facts, key, NULL)
                                 : STATUS_UNSUPPORTED;
}

/* -------------------------------------------------------------------------------------------------- asking */

static void ask(struct job *j, struct residual *one)
{
    if (one->ask.state != ASK_WAITS) return;
    status_t status = tier_ask(j->engine->tier, &one->ask.query, &one->ask.view);
    if (status != STATUS_AGAIN) one->ask.state = status == STATUS_OK ? ASK_HERE : ASK_MISSED;
}

/* Half of what making them takes is what waiting for them may cost. */
static int64_t patience_ns(const struct job *j, int count)
{
    double step = j->report.computed_seconds > 0 ? j->report.computed_seconds : j->status.step_seconds;
    double seconds = step * count / j->branches / 2;
    int64_t patience = seconds < 1e6 ? (int64_t)(seconds * (double)SECOND_NS) : WAIT_MOST_NS;
    return patience < WAIT_LEAST_NS ? WAIT_LEAST_NS : patience > WAIT_MOST_NS ? WAIT_MOST_NS : patience;
}

static void list_needed(struct job *j, int branch)
{
    uint64_t tenant;
    if (key_tenant(j->tenant, &tenant, NULL) != STATUS_OK) return;
    for (int step = 0; step < j->resume_step && j->residual_count[branch] < CACHE_SLOTS; step++) {
        struct residual *one = &j->residuals[branch][j->residual_count[branch]];
        if (!reuse_needs_residual(j->reuse, step, branch) ||
            key_of(j, step, branch, &one->ask.query.key) != STATUS_OK)
            continue;
        one->step = step;
        one->ask.query.tenant = tenant;
        one->ask.query.device = true; /* ops alone read it */
        one->ask.state = ASK_WAITS;
        j->residual_count[branch]++;
    }
}

void job_seek_residuals(struct job *j)
{
    int count = 0;
    if (!j->resumed || !j->reuse) return;
    for (int b = 0; b < j->branches; b++) {
        list_needed(j, b);
        count += j->residual_count[b];
    }
    int64_t until_ns = clock_now_ns() + patience_ns(j, count);
    for (int b = 0; b < j->branches; b++)
        for (int i = 0; i < j->residual_count[b]; i++) j->residuals[b][i].ask.query.deadline_ns = until_ns;
}

void job_tend_residuals(struct job *j)
{
    for (int b = 0; b < j->branches; b++)
        for (int i = 0; i < j->residual_count[b]; i++) ask(j, &j->residuals[b][i]);
}

static const struct residual *waiting(const struct job *j)
{
    for (int b = 0; b < j->branches; b++)
        for (int i = 0; i < j->residual_count[b]; i++)
            if (j->residuals[b][i].ask.state == ASK_WAITS) return &j->residuals[b][i];
    return NULL;
}

bool job_residuals_wait(const struct job *j)
{
    return waiting(j) != NULL;
}

int64_t job_residuals_deadline_ns(const struct job *j)
{
    const struct residual *one = waiting(j);
    return one ? one->ask.query.deadline_ns : CLOCK_NEVER;
}

/* -------------------------------------------------------------------------------------------------- taking */

/* The item is [tokens, hidden]. */
bool job_take_residual(struct job *j, int branch)
{
    for (int i = 0; i < j->residual_count[branch]; i++) {
        const struct residual *one = &j->residuals[branch][i];
        if (one->step != j->step || one->ask.state != ASK_HERE) continue;
        if (one->ask.view.size != reuse_residual_bytes(j->reuse)) return false;
        reuse_put(j->reuse, j->engine->team, branch, one->ask.view.bytes);
        j->residuals_taken++;
        return true;
    }
    return false;
}

static void let_go(struct job *j, struct residual *one)
{
    if (one->ask.state == ASK_HERE) tier_release(j->engine->tier, &one->ask.view);
    one->ask.state = ASK_MISSED;
}

void job_residuals_used(struct job *j)
{
    for (int b = 0; b < j->branches; b++)
        for (int i = 0; i < j->residual_count[b]; i++)
            if (j->residuals[b][i].step == j->step) let_go(j, &j->residuals[b][i]);
}

void job_residuals_end(struct job *j)
{
    for (int b = 0; b < j->branches; b++)
        for (int i = 0; i < j->residual_count[b]; i++) let_go(j, &j->residuals[b][i]);
}

/* -------------------------------------------------------------------------------------------------- giving */

/* Copies are under way; the drafts that were taken. */
static int copy_branch(struct job *j, int branch, struct draft *drafts)
{
    const float *tensors[CACHE_SLOTS];
    int steps[CACHE_SLOTS], made = 0;
    size_t bytes = reuse_residual_bytes(j->reuse);
    int count = reuse_residuals(j->reuse, branch, tensors, steps);
    for (int i = 0; i < count; i++) {
        struct key key;
        double seconds = j->report.computed_seconds / j->branches;
        if (key_of(j, steps[i], branch, &key) != STATUS_OK ||
            tier_reserve_device(j->engine->tier, key.tenant, &key, bytes, seconds, &drafts[made], NULL))
            continue;
        j->engine->ops->copy(j->engine->team, drafts[made++].bytes, tensors[i], bytes);
    }
    return made;
}

void job_keep_residuals(struct job *j)
{
    struct draft drafts[BRANCHES * CACHE_SLOTS];
    int made = 0;
    bool steps = j->life == LIFE_STEP && !j->cancelled && j->failure.status == STATUS_OK;
    if (!steps || !j->reuse || !j->engine->tier) return;
    for (int b = 0; b < j->branches; b++) made += copy_branch(j, b, drafts + made);
    if (!made) return;
    bool whole = engine_wait(j->engine, NULL) == STATUS_OK;
    for (int i = 0; i < made; i++)
        if (whole)
            tier_commit(j->engine->tier, &drafts[i]);
        else
            tier_abort(j->engine->tier, &drafts[i]);
    log_line(LOG_INFO, "job %lu: keeps %d residuals for whoever goes on with it", (unsigned long)j->order.job,
             made);
}

void job_forget_residuals(struct job *j)
{
    struct key key;
    if (!j->reuse || !reuse_residual_bytes(j->reuse)) return;
    for (int step = 0; step < j->order.steps; step++)
        for (int b = 0; b < j->branches; b++)
            if (key_of(j, step, b, &key) == STATUS_OK) tier_forget(j->engine->tier, &key);
}
