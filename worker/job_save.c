/*
 * job_save.c - a job between two steps as bytes, and back; see job.h. Home's compute thread.
 *
 * A checkpoint is a head of fixed size, then: the latent; of a job that compares, the latent of its first
 * pass; what the solver remembers; what caching knows (cache/reuse_save.c). All lengths follow from the order
 * and the head, so none is written and none has to be believed. Numbers are little-endian, as all machines
 * this runs on have them. The hash finds what broke on the way; what it does not find (a checkpoint of
 * another build, say) is checked as well.
 *
 * A run's checkpoint is the same of one pass alone. It is taken over by any job for which that pass is the same run
 * (worker/job_run.c): what the job is called, and whether it compares, does not matter then.
 *
 * A restored job encodes its text and opens its contexts as every job does, then makes those steps again
 * whose hidden states its caching kept, through the ordinary step loop, and goes on. One whose steps are all
 * done needs neither and goes to the decoder. Times are those that an undisturbed run would have measured.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "worker/job_state.h"

enum { FORMAT = 4 };

struct head {
    char magic[4];
    uint32_t format;
    uint64_t bytes;      /* of all */
    uint64_t hash;       /* of everything after this field */
    uint64_t job, order; /* order: hash of all that changes a bit of the video */
    uint32_t pass, step; /* steps finished in that pass */
    uint32_t computed_steps, reused_steps;
    double text_seconds, denoise_seconds, step_seconds, pass_seconds[PASSES], computed_seconds,
        reused_seconds;
    uint64_t frame;     /* hash of what a job that goes on from here cannot change */
    uint32_t first;     /* steps before it were another job's and are unknown to caching; 0: none */
    uint16_t passes;    /* of that job: 2 if it compares */
    uint16_t inherited; /* steps of it that its origin made */
    uint8_t
        run[KEY_BYTES]; /* the key of this pass's last latent, which names the run; zeros: it is not known */
    uint64_t numerics;  /* that all of its steps were made with; 0: it is not known */
    double run_seconds; /* that the run's steps took, whoever made them */
};
_Static_assert(sizeof(struct head) == 176 && CACHE_STEPS <= UINT16_MAX, "no padding");

static const char magic[4] = {'R', 'F', 'C', 'K'};
enum { HASHED_FROM = 24 };
_Static_assert(offsetof(struct head, job) == HASHED_FROM, "the hash covers what follows it");

/* -------------------------------------------------------------------------------------------------- order */

static void mix(uint64_t *hash, const void *bytes, size_t count)
{
    *hash = XXH64(bytes, count, *hash);
}

static void mix_text(uint64_t *hash, const char *text)
{
    mix(hash, text, strlen(text) + 1);
}

/* The numbers of the configuration that change a video. */
static void mix_model(uint64_t *hash, const struct model_config *c)
{
    const struct denoiser_config *d = &c->denoiser;
    const struct text_config *t = &c->text;
    const struct vae_config *v = &c->vae;
    const struct solver_config *s = &c->solver;
    const int64_t numbers[] = {d->layers,
                               d->heads,
                               d->head_dim,
                               d->hidden,
                               d->ffn_dim,
                               d->in_channels,
                               d->text_dim,
                               d->freq_dim,
                               d->patch_t,
                               d->patch_y,
                               d->patch_x,
                               d->cross_attn_norm,
                               t->layers,
                               t->heads,
                               t->head_dim,
                               t->width,
                               t->ffn_dim,
                               t->vocabulary,
                               t->buckets,
                               t->max_distance,
                               v->base,
                               v->decoder_base,
                               v->latent_channels,
                               v->levels,
                               v->resnets,
                               v->scale_t,
                               v->scale_y,
                               s->kind,
                               s->train_steps,
                               s->order,
                               s->bh1,
                               s->final_sigma_min,
                               d->out_channels,
                               c->text_length,
                               s->lower_order_final};
    const double reals[] = {(double)d->eps, (double)t->eps, s->shift, s->shift_terminal};
    mix(hash, numbers, sizeof numbers);
    mix(hash, reals, sizeof reals);
    mix(hash, s->disable_corrector, (size_t)s->disabled_correctors * sizeof *s->disable_corrector);
    mix(hash, v->mean, (size_t)v->latent_channels * sizeof *v->mean);
    mix(hash, v->std, (size_t)v->latent_channels * sizeof *v->std);
    mix_text(hash, c->pipeline);
    if (c->experts < 2) return;
    const double second[] = {c->boundary, (double)c->second.eps, c->second.cross_attn_norm};
    mix(hash, second, sizeof second);
}

static void mix_table(uint64_t *hash, const struct cache_table *t)
{
    const int64_t numbers[] = {t->model.layers,          t->model.heads, t->model.head_dim, t->model.ffn_dim,
                               t->model.latent_channels, t->steps,       t->width,          t->count};
    mix_text(hash, t->kind);
    mix(hash, numbers, sizeof numbers);
    mix(hash, &t->shift, sizeof t->shift);
    mix(hash, t->values, (size_t)t->count * sizeof *t->values);
}

uint64_t job_tables_hash(const struct job *j)
{
    uint64_t hash = 0;
    for (int i = 0; i < j->order.table_count; i++) mix_table(&hash, &j->tables[i]);
    return hash;
}

/* What stays when a job goes on from another's checkpoint: the latent's shape and meaning, and how steps are taken.
 * Backends of one kind ("cpu-avx2", "cpu-avx512") agree with each other (kernels/ops.h). */
static uint64_t frame_hash(const struct job *j)
{
    const struct job_order *o = &j->order;
    const char *backend = j->engine->ops->name;
    const int64_t numbers[] = {o->steps, o->width, o->height, o->frames, (int64_t)o->solver};
    uint64_t hash = o->seed;
    mix(&hash, backend, strcspn(backend, "-"));
    mix(&hash, numbers, sizeof numbers);
    mix(&hash, &o->shift, sizeof o->shift);
    mix_model(&hash, &j->engine->model->config);
    return hash;
}

/* Everything that changes a bit, and nothing else: a job may be resumed with another priority. Whether it also makes
 * its video without caching is said beside it. */
static uint64_t order_hash(const struct job *j)
{
    const struct job_order *o = &j->order;
    uint64_t hash = frame_hash(j);
    mix(&hash, &o->guidance, sizeof o->guidance);
    if (o->guides_apart) mix(&hash, &o->guidance_2, sizeof o->guidance_2);
    for (int b = 0; b < BRANCHES; b++) mix_text(&hash, j->prompt[b]);
    mix_text(&hash, j->policy); /* complete: with every value */
    for (int i = 0; i < o->table_count; i++) mix_table(&hash, &j->tables[i]);
    return hash;
}

/* --------------------------------------------------------------------------------------------------- save */

static size_t latent_bytes(const struct job *j)
{
    return (size_t)j->latent_count * sizeof(float);
}

/* All but what caching knows. */
static size_t plain_bytes(const struct job *j, int pass, int step)
{
    size_t solver = step < j->order.steps ? solver_save_bytes(j->solver[0], step) : 0;
    return sizeof(struct head) + latent_bytes(j) * (pass > 0 ? 2 : 1) + solver;
}

bool job_between_steps(const struct job *j, int *step)
{
    bool between = j->life == LIFE_CLOSE || (j->life == LIFE_STEP && !j->step_begun && !j->replaying) ||
                   (j->life == LIFE_DECODE && !j->lean);
    if (!between || j->cancelled || j->failure.status != STATUS_OK) return false;
    *step = j->pass * j->order.steps + j->step;
    return true;
}

size_t job_save_bytes(const struct job *j)
{
    size_t caching = j->reuse ? reuse_save_bytes(j->reuse, j->step) : 0;
    return j->reuse && !caching ? 0 : plain_bytes(j, j->pass, j->step) + caching;
}

/* alone: as a job that does not compare would have saved the pass at work. */
static struct head make_head(const struct job *j, bool alone, size_t bytes)
{
    struct head head = {.format = FORMAT,
                        .bytes = bytes,
                        .job = j->order.job,
                        .order = order_hash(j),
                        .frame = frame_hash(j),
                        .first = (uint32_t)(j->reuse ? reuse_first(j->reuse) : 0),
                        .passes = (uint16_t)(alone ? 1 : j->passes),
                        .inherited = (uint16_t)j->inherited,
                        .pass = (uint32_t)(alone ? 0 : j->pass),
                        .step = (uint32_t)j->step,
                        .computed_steps = (uint32_t)j->computed_steps,
                        .reused_steps = (uint32_t)j->reused_steps,
                        .text_seconds = j->status.text_seconds,
                        .denoise_seconds = j->life == LIFE_DECODE ? j->status.denoise_seconds
                                                                  : job_seconds_since(j->phase_began_ns),
                        .step_seconds = j->status.step_seconds,
                        .computed_seconds = j->report.computed_seconds,
                        .reused_seconds = j->report.reused_seconds,
                        .run_seconds = j->run_seconds};
    memcpy(head.magic, magic, sizeof magic);
    if (j->run[j->pass].keyed) {
        key_encode(&j->run[j->pass].key, head.run);
        head.numerics = tier_numerics(j->engine->tier);
    }
    for (int i = alone ? j->pass : 0; i <= j->pass; i++) {
        bool over = i < j->pass || j->life != LIFE_STEP;
        head.pass_seconds[alone ? 0 : i] = over ? j->pass_seconds[i] : job_seconds_since(j->pass_began_ns);
    }
    return head;
}

/* Latents are shared and at rest between steps; what else is kept on the device comes with the wait. */
static status_t save(const struct job *j, bool alone, void *bytes, size_t size, struct error *error)
{
    struct engine *e = j->engine;
    struct head head = make_head(j, alone, size);
    unsigned char *at = (unsigned char *)bytes + sizeof head;
    size_t latent = latent_bytes(j), plain = plain_bytes(j, (int)head.pass, j->step);
    memcpy(bytes, &head, sizeof head);
    memcpy(at, j->latent, latent);
    if (head.pass > 0) memcpy(at + latent, j->uncached_latent, latent);
    if (j->step < j->order.steps)
        solver_save(j->solver[j->pass], e->team, j->step, at + latent * (head.pass > 0 ? 2 : 1));
    if (j->reuse) reuse_save(j->reuse, e->team, j->step, (unsigned char *)bytes + plain);
    status_t status = engine_wait(e, error);
    if (status != STATUS_OK) return status;
    head.hash = XXH64((unsigned char *)bytes + HASHED_FROM, size - HASHED_FROM, 0);
    memcpy(bytes, &head, sizeof head);
    return STATUS_OK;
}

status_t job_save(const struct job *j, void *bytes, size_t size, struct error *error)
{
    return save(j, false, bytes, size, error);
}

size_t job_save_run_bytes(const struct job *j)
{
    size_t all = job_save_bytes(j);
    return all ? all - plain_bytes(j, j->pass, j->step) + plain_bytes(j, 0, j->step) : 0;
}

status_t job_save_run(const struct job *j, void *bytes, size_t size, struct error *error)
{
    return save(j, true, bytes, size, error);
}

/* ------------------------------------------------------------------------------------------------ restore */

static bool times_are_sound(const struct head *head)
{
    const double seconds[] = {head->text_seconds,    head->denoise_seconds, head->step_seconds,
                              head->pass_seconds[0], head->pass_seconds[1], head->computed_seconds,
                              head->reused_seconds,  head->run_seconds};
    for (size_t i = 0; i < sizeof seconds / sizeof *seconds; i++)
        if (!(seconds[i] >= 0 && seconds[i] < 1e9)) return false; /* as nanoseconds they must fit */
    return true;
}

/* Whole, and of this format. */
static status_t check(const void *bytes, size_t size, struct head *head, struct error *error)
{
    if (size < sizeof *head || memcmp(bytes, magic, sizeof magic) != 0)
        return error_set(error, STATUS_CORRUPT, "%zu bytes that are not a checkpoint", size);
    memcpy(head, bytes, sizeof *head);
    if (head->format != FORMAT)
        return error_set(error, STATUS_UNSUPPORTED, "the checkpoint is of format %u, this worker reads %d",
                         head->format, FORMAT);
    if (head->bytes != size)
        return error_set(error, STATUS_CORRUPT, "the checkpoint has %zu bytes of %lu", size,
                         (unsigned long)head->bytes);
    if (head->hash != XXH64((const unsigned char *)bytes + HASHED_FROM, size - HASHED_FROM, 0))
        return error_set(error, STATUS_CORRUPT, "the checkpoint's hash does not fit its bytes");
    return STATUS_OK;
}

static status_t check_numbers(const struct job *j, const struct head *head, struct error *error)
{
    uint32_t step = head->step;
    if (head->pass < head->passes && head->passes <= PASSES && step <= (uint32_t)j->order.steps &&
        head->computed_steps <= step && head->reused_steps <= step && head->first <= step &&
        head->inherited <= step && times_are_sound(head))
        return STATUS_OK;
    return error_set(error, STATUS_CORRUPT, "the checkpoint's step %u of pass %u, or a time of it, cannot be",
                     step, head->pass);
}

/* Of this job: everything fits it. Of its origin: what cannot be changed is the same, and it is the step that was asked
 * for. Then head->pass and head->step are within it. */
static status_t check_order(const struct job *j, const struct head *head, struct error *error)
{
    bool own = head->job == j->order.job;
    if (!own && (!j->order.origin || head->job != j->order.origin))
        return error_set(error, STATUS_CONFLICT, "the checkpoint is of job %lu, not %lu",
                         (unsigned long)head->job, (unsigned long)j->order.job);
    bool same =
        own ? head->order == order_hash(j) && head->passes == j->passes : head->frame == frame_hash(j);
    if (!same)
        return error_set(error, STATUS_CONFLICT,
                         "the checkpoint is of another order, model or backend than job %lu has",
                         (unsigned long)j->order.job);
    if (!own && (head->pass + 1 != head->passes || head->step != (uint32_t)j->order.origin_step))
        return error_set(error, STATUS_CONFLICT, "the checkpoint of job %lu is of step %u, not %d",
                         (unsigned long)head->job, head->step, j->order.origin_step);
    return check_numbers(j, head, error);
}

/* Does the job go on as it, or its origin, would have? Otherwise something after this step is another. */
static bool continues(const struct job *j, const struct head *head)
{
    return head->order == order_hash(j);
}

/* Becomes pass `pass` of the job; whole: with what caching knows, the only part that can be wrong in itself, and so is
 * read first. both: the first pass's latent as well. */
static status_t read_body(struct job *j, const struct head *head, int pass, bool whole, bool both,
                          const void *bytes, size_t size, struct error *error)
{
    int step = (int)head->step;
    const unsigned char *at = bytes;
    size_t latent = latent_bytes(j), latents = head->pass > 0 ? 2 : 1;
    size_t plain = plain_bytes(j, (int)head->pass, step);
    bool cached = j->cache && pass + 1 == j->passes;
    if (size < plain || (!cached && whole && size != plain))
        return error_set(error, STATUS_CORRUPT, "a checkpoint of step %d must have %zu bytes, not %zu", step,
                         plain, size);
    if (cached) reuse_begin_at(j->cache, whole ? (int)head->first : step);
    if (cached && whole) {
        status_t status = reuse_restore(j->cache, j->engine->team, step, at + plain, size - plain, error);
        if (status != STATUS_OK) return status;
    }
    at += sizeof *head;
    memcpy(j->latent, at, latent);
    if (both) memcpy(j->uncached_latent, at + latent, latent);
    if (step < j->order.steps) solver_restore(j->solver[pass], j->engine->team, step, at + latent * latents);
    return engine_wait(j->engine, error);
}

/* Times and counts of what the job itself did before; what its origin did is not its own. */
static void take_times(struct job *j, const struct head *head)
{
    j->resumed_text = head->text_seconds;
    j->resumed_denoise = head->denoise_seconds;
    j->resumed_pass = head->pass_seconds[head->pass];
    memcpy(j->pass_seconds, head->pass_seconds, sizeof j->pass_seconds);
    j->report.computed_seconds = head->computed_seconds;
    j->report.reused_seconds = head->reused_seconds;
    j->computed_steps = (int)head->computed_steps;
    j->reused_steps = (int)head->reused_steps;
}

/* Which run the steps to come belong to (worker/job_run.c). */
static void note_run(struct job *j, const struct head *head, bool whole)
{
    bool same = head->numerics && head->numerics == tier_numerics(j->engine->tier);
    j->from_run.known = same && key_decode(head->run, &j->from_run.key, NULL) == STATUS_OK;
    j->from_run.changed = !whole;
    j->run_seconds = whole ? head->run_seconds : 0;
}

/* Where the job is now: the steps of pass `pass` before `step` are made. */
static void go_on_from(struct job *j, int pass, int step)
{
    j->resumed = true;
    j->resume_step = step;
    job_enter_pass(j, pass);
    j->step = step;
    bool across = j->reuse && reuse_plan(j->reuse)->policy.trace; /* it makes steps of both again */
    if (j->pass + 1 == j->passes && j->step >= j->switch_at && !across)
        j->first_expert = j->last_expert; /* the other is done */
    if (j->pass + 1 < j->passes || j->step < j->order.steps) return;
    j->status.text_seconds = j->resumed_text;
    j->status.denoise_seconds = j->resumed_denoise;
    job_enter_phase(j, LIFE_DECODE, JOB_PHASE_DECODE, j->latent_frames * j->passes);
}

status_t job_restore(struct job *j, const void *bytes, size_t size, struct error *error)
{
    struct head head = {0};
    if (j->life != LIFE_TEXT || j->resumed)
        return error_set(error, STATUS_CONFLICT, "job %lu has begun already", (unsigned long)j->order.job);
    status_t status = check(bytes, size, &head, error);
    if (status == STATUS_OK) status = check_order(j, &head, error);
    if (status != STATUS_OK) return status;
    bool own = head.job == j->order.job, whole = continues(j, &head);
    int pass = own ? (int)head.pass : 0;
    status = read_body(j, &head, pass, whole, pass > 0, bytes, size, error);
    if (status != STATUS_OK) return status;
    j->inherited = own ? (int)head.inherited : (int)head.step;
    j->status.steps_taken_over = j->inherited;
    if (own) take_times(j, &head);
    j->status.step_seconds = head.step_seconds;
    note_run(j, &head, whole);
    go_on_from(j, pass, (int)head.step);
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------------------- adopt */

/* Of the run that the pass at work is, and further than the job is. */
static status_t check_run(const struct job *j, const struct head *head, struct error *error)
{
    uint8_t run[KEY_BYTES];
    key_encode(&j->run[j->pass].key, run);
    if (memcmp(head->run, run, sizeof run) != 0 || head->frame != frame_hash(j))
        return error_set(error, STATUS_CONFLICT, "it is of another run");
    if ((int)head->step <= j->resume_step)
        return error_set(error, STATUS_CONFLICT, "it is of step %u, and the job is at step %d already",
                         head->step, j->resume_step);
    return check_numbers(j, head, error);
}

/* The report is about the run, whoever made its steps; what this job's own part of it took is told apart. */
static void take_report(struct job *j, const struct head *head)
{
    j->status.steps_reused += (int)head->step - j->resume_step;
    if (head->run_seconds > j->run_seconds) j->status.reused_seconds += head->run_seconds - j->run_seconds;
    j->run_seconds = head->run_seconds;
    j->inherited = (int)head->inherited;
    j->resumed_pass = j->pass_seconds[j->pass] = head->pass_seconds[head->pass];
    if ((int)head->step < j->order.steps) j->status.step_seconds = head->step_seconds;
    if (j->pass + 1 < j->passes) return;
    j->report.computed_seconds = head->computed_seconds;
    j->report.reused_seconds = head->reused_seconds;
    j->computed_steps = (int)head->computed_steps;
    j->reused_steps = (int)head->reused_steps;
}

/* What caching knew before, from a checkpoint, is put back where the new one is none. */
static status_t read_over(struct job *j, const struct head *head, const void *bytes, size_t size,
                          struct error *error)
{
    struct team *team = j->engine->team;
    int first = j->cache ? reuse_first(j->cache) : 0;
    bool known = j->resumed && j->reuse;
    size_t before = known ? reuse_save_bytes(j->reuse, j->resume_step) : 0;
    void *kept = before ? malloc(before) : NULL;
    if (before && !kept) return error_set(error, STATUS_NO_MEMORY, "no memory for %zu bytes", before);
    if (known) reuse_save(j->reuse, team, j->resume_step, kept);
    status_t status = known ? engine_wait(j->engine, error) : STATUS_OK;
    if (status == STATUS_OK) status = read_body(j, head, j->pass, true, false, bytes, size, error);
    if (status != STATUS_OK && known) {
        reuse_begin_at(j->reuse, first);
        if (reuse_restore(j->reuse, team, j->resume_step, kept, before, NULL) != STATUS_OK)
            status = error_set(error, STATUS_INTERNAL, "what the job knew of its caching is lost");
    }
    free(kept);
    return status;
}

status_t job_adopt(struct job *j, const void *bytes, size_t size, struct error *error)
{
    struct head head = {0};
    int pass = j->pass;
    if (j->life != LIFE_TEXT || !j->run[pass].keyed)
        return error_set(error, STATUS_CONFLICT, "job %lu takes no steps now", (unsigned long)j->order.job);
    status_t status = check(bytes, size, &head, error);
    if (status == STATUS_OK) status = check_run(j, &head, error);
    if (status == STATUS_OK) status = read_over(j, &head, bytes, size, error);
    if (status != STATUS_OK) return status;
    take_report(j, &head);
    j->status.revision++;
    if ((int)head.step < j->order.steps || pass + 1 == j->passes) {
        go_on_from(j, pass, (int)head.step);
        return STATUS_OK;
    }
    memcpy(j->uncached_latent, j->latent, latent_bytes(j));
    job_begin_pass(j, pass + 1);
    j->resumed_pass = 0;
    j->inherited = 0;
    go_on_from(j, pass + 1, 0);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------------------------- replay */

/* To the next step that must be made again, or on with the job. */
static void go_to(struct job *j, int step)
{
    j->step = step;
    j->replaying = step < j->resume_step;
    if (j->replaying) return;
    int64_t now = j->step_ended_ns = clock_now_ns();
    j->phase_began_ns = now - (int64_t)(j->resumed_denoise * (double)SECOND_NS);
    j->pass_began_ns = now - (int64_t)(j->resumed_pass * (double)SECOND_NS);
}

void job_resume(struct job *j)
{
    j->status.text_seconds = j->resumed_text;
    j->status.done = j->pass * j->order.steps + j->resume_step;
    j->status.seconds_left = j->status.step_seconds * (j->status.of - j->status.done);
    go_to(j, j->reuse ? reuse_replay(j->reuse, -1) : j->resume_step);
}

void job_replayed(struct job *j)
{
    j->step_begun = false;
    j->deadline_ns = CLOCK_NEVER;
    go_to(j, reuse_replay(j->reuse, j->step));
}
