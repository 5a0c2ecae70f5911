/*
 * jobs.c - see jobs.h. Runs on the coordinator's loop thread; holds no locks.
 *
 * A job in memory is what the loop needs to decide; the spec stays in the store until the job is sent to a
 * worker. `all` holds every unfinished job, `queues[priority]` those that wait. Both are sorted by number,
 * which is the order of submission, so a job that comes back after its ranks were lost takes its old place.
 */
#include "coordinator/jobs/jobs.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "coordinator/jobs/joblist.h"
#include "proto/validate.h"

enum { PRIORITIES = REFRAIN__PRIORITY__PRIORITY_HIGH + 1 };

struct jobs {
    struct jobstore *store; /* borrowed */
    size_t limit;           /* unfinished jobs at most */
    struct joblist all, queues[PRIORITIES];
    struct tenants tenants;
    uint64_t *changed; /* [changed_capacity] */
    size_t changed_count, changed_taken, changed_capacity;
    int64_t next_deadline_ms; /* not later than the earliest */
    int64_t foreseen_ms; /* when the jobs' finish_ms were predicted */
    uint64_t entered[JOB_STATES], settled[JOB_STATES]; /* how often; as of the last commit */
};

/* -------------------------------------------------------------------------------------------- transitions */

/* The table of refrain.proto. */
static bool transition_allowed(Refrain__JobState from, Refrain__JobState to)
{
#define TO(state) (1u << REFRAIN__JOB_STATE__JOB_##state)
    static const unsigned allowed[] = {
        [REFRAIN__JOB_STATE__JOB_ACCEPTED] = TO(QUEUED),
        [REFRAIN__JOB_STATE__JOB_QUEUED] = TO(RUNNING) | TO(CANCELLED) | TO(EXPIRED) | TO(FAILED),
        [REFRAIN__JOB_STATE__JOB_RUNNING] =
            TO(QUEUED) | TO(COMPLETED) | TO(FAILED) | TO(CANCELLING) | TO(EXPIRED),
        [REFRAIN__JOB_STATE__JOB_CANCELLING] = TO(CANCELLED) | TO(COMPLETED) | TO(FAILED),
    };
#undef TO
    return (size_t)from < sizeof allowed / sizeof *allowed && (allowed[from] & (1u << to));
}

static const char *state_name(Refrain__JobState state)
{
    static const char *const names[] = {"accepted",  "queued", "running",   "cancelling",
                                        "completed", "failed", "cancelled", "expired"};
    return (size_t)state < sizeof names / sizeof *names ? names[state] : "unknown";
}

static bool is_final(Refrain__JobState state)
{
    return state >= REFRAIN__JOB_STATE__JOB_COMPLETED;
}

/* Room for one more number, made before anything is written, so that the note itself cannot fail. */
static bool reserve_changed(struct jobs *jobs)
{
    if (jobs->changed_taken) { /* the reader is done with these */
        jobs->changed_count = jobs->changed_taken = 0;
    }
    if (jobs->changed_count < jobs->changed_capacity) return true;
    size_t capacity = jobs->changed_capacity ? 2 * jobs->changed_capacity : 256;
    uint64_t *changed = realloc(jobs->changed, capacity * sizeof *changed);
    if (!changed) return false;
    jobs->changed = changed;
    jobs->changed_capacity = capacity;
    return true;
}

static void note_changed(struct jobs *jobs, uint64_t id)
{
    jobs->changed[jobs->changed_count++] = id;
}

/* The array stays until the next change: the reader need not copy it. */
size_t jobs_take_changed(struct jobs *jobs, const uint64_t **ids)
{
    size_t count = jobs->changed_taken ? 0 : jobs->changed_count;
    *ids = jobs->changed;
    jobs->changed_taken = jobs->changed_count;
    memcpy(jobs->settled, jobs->entered, sizeof jobs->settled);
    return count;
}

const uint64_t *jobs_entered(const struct jobs *jobs)
{
    return jobs->settled;
}

static void clear_progress(struct job *job)
{
    free(job->progress.cache_actions.data);
    refrain__progress__init(&job->progress);
}

/* `to` gets its own copy of the actions; without memory it has none: they are for people to look at. A preview is not
 * kept. */
static void copy_progress(Refrain__Progress *to, const Refrain__Progress *from)
{
    size_t bytes = from->has_cache_actions ? from->cache_actions.len : 0;
    uint8_t *actions = bytes ? malloc(bytes) : NULL;
    *to = *from;
    to->base.n_unknown_fields = 0; /* of a newer worker: not kept */
    to->base.unknown_fields = NULL;
    to->has_preview = to->has_preview_step = 0;
    to->preview = (ProtobufCBinaryData){0, NULL};
    to->has_cache_actions = actions != NULL;
    to->cache_actions = (ProtobufCBinaryData){actions ? bytes : 0, actions};
    if (actions) memcpy(actions, from->cache_actions.data, bytes);
}

static bool actions_fit(const ProtobufCBinaryData *actions)
{
    if (actions->len > LIMIT_STEPS) return false;
    for (size_t i = 0; i < actions->len; i++)
        if (actions->data[i] > REFRAIN__CACHE_ACTION__CACHE_PARTLY) return false;
    return true;
}

void jobs_note_progress(struct job *job, const Refrain__Progress *progress)
{
    Refrain__Progress fitting = *progress;
    if (!actions_fit(&progress->cache_actions)) fitting.has_cache_actions = 0;
    if (!isfinite(progress->largest_reused)) fitting.has_largest_reused = 0;
    if (!isfinite(progress->reused_seconds)) fitting.has_steps_reused = fitting.has_reused_seconds = 0;
    clear_progress(job);
    copy_progress(&job->progress, &fitting);
    uint64_t reached = (uint64_t)fitting.phase << 32 | fitting.step;
    if (reached > job->reached) job->reached = reached;
    if (reached > job->loss_reached)
        job->losses = job->alone = 0; /* further than ever: what stopped it before is behind it */
}

bool jobs_suspect(const struct job *job)
{
    return job->losses + 1 >= JOB_MAX_LOSSES;
}

static void job_free(struct jobs *jobs, struct job *job)
{
    if (!job) return;
    clear_progress(job);
    free(job->again);
    tenants_leave(&jobs->tenants, job->share);
    free(job->model);
    free(job);
}

static void forget(struct jobs *jobs, struct job *job)
{
    joblist_remove(&jobs->queues[job->priority], job);
    joblist_remove(&jobs->all, job);
    job_free(jobs, job);
}

/* The one place where a job changes state. `change` carries the message, plan and times; the rest is filled
 * in here. */
static status_t move(struct jobs *jobs, struct job *job, Refrain__JobState state, struct job_change *change,
                     int64_t now_ms, struct error *error)
{
    if (!transition_allowed(job->state, state))
        return error_set(error, STATUS_CONFLICT, "job %" PRIu64 ": is %s and cannot become %s", job->id,
                         state_name(job->state), state_name(state));
    struct joblist *queue = &jobs->queues[job->priority];
    if (!reserve_changed(jobs) || !joblist_reserve(queue))
        return error_set(error, STATUS_NO_MEMORY, "job %" PRIu64 ": out of memory", job->id);
    bool starts = state == REFRAIN__JOB_STATE__JOB_RUNNING;
    change->job = job->id;
    change->state = state;
    change->sequence = job->sequence + 1;
    change->attempt = job->attempt + starts;
    change->losses = job->losses; /* jobs_requeue has counted */
    change->at_ms = now_ms;
    change->started_ms = starts && !job->started_ms ? now_ms : job->started_ms;
    change->finished_ms = is_final(state) ? now_ms : 0;
    status_t status = jobstore_change(jobs->store, change, error);
    if (status != STATUS_OK) return status;

    job->state = state;
    job->sequence = change->sequence;
    job->attempt = change->attempt;
    job->losses = change->losses;
    job->started_ms = change->started_ms;
    /* A cancelling job goes on until the next step boundary. */
    if (state != REFRAIN__JOB_STATE__JOB_CANCELLING) clear_progress(job);
    joblist_remove(queue, job);
    if (state == REFRAIN__JOB_STATE__JOB_QUEUED) joblist_insert(queue, job);
    note_changed(jobs, job->id);
    jobs->entered[state]++;
    return STATUS_OK;
}

/* The start is what counts as an attempt, so a job that never ran has 0. Who pays: the tenant, once. */
status_t jobs_start(struct jobs *jobs, struct job *job, const char *plan, int64_t now_ms, struct error *error)
{
    struct job_change change = {.plan = plan, .message = job->again};
    status_t status = move(jobs, job, REFRAIN__JOB_STATE__JOB_RUNNING, &change, now_ms, error);
    if (status == STATUS_OK && job->attempt == 1) tenants_charge(job->share, job->work);
    if (status == STATUS_OK) job->middle_ms = job->foretold_ms = 0;
    job->reached = 0;
    return status;
}

/* Losses count while the job does not get any further than the last time. */
static void count_loss(struct job *job, enum jobs_loss loss)
{
    if (loss == LOSS_NONE) return;
    if (job->reached > job->loss_reached) {
        job->losses = job->alone = 0;
        job->loss_reached = job->reached;
    }
    job->losses++;
    job->alone += loss == LOSS_ALONE;
    if (job->losses >= JOB_MAX_LOSSES && job->alone < JOB_LOSSES_ALONE) job->losses = JOB_MAX_LOSSES - 1;
}

/* Files of the lost attempt are forgotten: the next one makes its own, to the same bits. */
status_t jobs_requeue(struct jobs *jobs, struct job *job, enum jobs_loss loss, const char *message,
                      int64_t now_ms, struct error *error)
{
    struct job_change change = {.message = message};
    count_loss(job, loss);
    if (job->losses >= JOB_MAX_LOSSES) {
        char text[ERROR_TEXT_BYTES + 96];
        snprintf(text, sizeof text,
                 "given up after its ranks were lost %d times in a row at the same place, the last time "
                 "because %s",
                 JOB_MAX_LOSSES, message);
        return jobs_finish(jobs, job, REFRAIN__JOB_STATE__JOB_FAILED, text, NULL, now_ms, error);
    }
    if (job->state == REFRAIN__JOB_STATE__JOB_CANCELLING)
        return jobs_finish(jobs, job, REFRAIN__JOB_STATE__JOB_CANCELLED, NULL, NULL, now_ms, error);
    status_t status = jobstore_drop_files(jobs->store, job->id, error);
    if (status == STATUS_OK) status = move(jobs, job, REFRAIN__JOB_STATE__JOB_QUEUED, &change, now_ms, error);
    if (status != STATUS_OK) return status;
    free(job->again);
    job->again = strdup(message); /* NULL, without memory, is only less to read */
    return STATUS_OK;
}

/* Asking twice is no error: the client may have missed the answer. */
status_t jobs_cancel(struct jobs *jobs, struct job *job, int64_t now_ms, struct error *error)
{
    if (job->state == REFRAIN__JOB_STATE__JOB_CANCELLING) return STATUS_OK;
    if (job->state == REFRAIN__JOB_STATE__JOB_QUEUED)
        return jobs_finish(jobs, job, REFRAIN__JOB_STATE__JOB_CANCELLED, NULL, NULL, now_ms, error);
    struct job_change change = {0};
    return move(jobs, job, REFRAIN__JOB_STATE__JOB_CANCELLING, &change, now_ms, error);
}

/* Only a completed job keeps files; whatever else it ends as, nobody may fetch half a result. */
static status_t end(struct jobs *jobs, struct job *job, Refrain__JobState state, struct job_change *change,
                    int64_t now_ms, struct error *error)
{
    status_t status = STATUS_OK;
    if (state != REFRAIN__JOB_STATE__JOB_COMPLETED && job->attempt > 0)
        status = jobstore_drop_files(jobs->store, job->id, error);
    if (status == STATUS_OK) status = move(jobs, job, state, change, now_ms, error);
    if (status != STATUS_OK) return status;
    forget(jobs, job);
    return STATUS_OK;
}

status_t jobs_finish(struct jobs *jobs, struct job *job, Refrain__JobState state, const char *message,
                     const Refrain__JobTimes *times, int64_t now_ms, struct error *error)
{
    struct job_change change = {.message = message, .times = times};
    return end(jobs, job, state, &change, now_ms, error);
}

status_t jobs_complete(struct jobs *jobs, struct job *job, const Refrain__JobTimes *times,
                       const Refrain__CacheReport *cache, int64_t now_ms, struct error *error)
{
    struct job_change change = {.times = times, .cache = cache};
    return end(jobs, job, REFRAIN__JOB_STATE__JOB_COMPLETED, &change, now_ms, error);
}

/* ------------------------------------------------------------------------------------------------ loading */

static struct job *job_make(struct jobs *jobs, const struct stored_job *stored)
{
    struct job *job = malloc(sizeof *job);
    if (!job) return NULL;
    *job = (struct job){
        .id = stored->id,
        .sequence = stored->sequence,
        .share = tenants_join(&jobs->tenants, stored->tenant),
        .model = strdup(stored->model),
        .state = stored->state,
        .priority = stored->priority,
        .attempt = stored->attempt,
        .losses = stored->losses,
        .submitted_ms = stored->submitted_ms,
        .started_ms = stored->started_ms,
        .deadline_at_ms = stored->deadline_at_ms,
        .work = stored->work,
    };
    if ((unsigned)job->priority >= PRIORITIES) job->priority = REFRAIN__PRIORITY__PRIORITY_NORMAL;
    refrain__progress__init(&job->progress);
    if (job->share) job->tenant = job->share->name;
    if (job->share && job->model) return job;
    job_free(jobs, job);
    return NULL;
}

/* Puts a job into memory. */
static status_t adopt(void *context, const struct stored_job *stored)
{
    struct jobs *jobs = context;
    struct job *job = job_make(jobs, stored);
    if (!job || !joblist_reserve(&jobs->all) || !joblist_reserve(&jobs->queues[job->priority])) {
        job_free(jobs, job);
        return STATUS_NO_MEMORY;
    }
    joblist_insert(&jobs->all, job);
    if (job->state == REFRAIN__JOB_STATE__JOB_QUEUED) joblist_insert(&jobs->queues[job->priority], job);
    if (job->deadline_at_ms && job->deadline_at_ms < jobs->next_deadline_ms)
        jobs->next_deadline_ms = job->deadline_at_ms;
    return STATUS_OK;
}

static void forget_all(struct jobs *jobs)
{
    for (size_t i = 0; i < jobs->all.count; i++) job_free(jobs, joblist_at(&jobs->all, i));
    joblist_free(&jobs->all);
    for (int i = 0; i < PRIORITIES; i++) joblist_free(&jobs->queues[i]);
    jobs->next_deadline_ms = INT64_MAX;
}

/* Watchers need not be told: what they saw was committed, and what was undone they never saw. */
status_t jobs_reload(struct jobs *jobs, struct error *error)
{
    forget_all(jobs);
    jobs->changed_count = jobs->changed_taken = 0;
    memcpy(jobs->entered, jobs->settled, sizeof jobs->entered);
    status_t status = jobstore_active(jobs->store, adopt, jobs, error);
    if (status == STATUS_NO_MEMORY) error_set(error, status, "no memory for the list of jobs");
    return status;
}

status_t jobs_open(struct jobstore *store, size_t limit, struct jobs **jobs, struct error *error)
{
    struct jobs *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for the list of jobs");
    made->store = store;
    made->limit = limit;
    status_t status = jobs_reload(made, error);
    if (status != STATUS_OK) {
        jobs_close(made);
        return status;
    }
    *jobs = made;
    return STATUS_OK;
}

void jobs_close(struct jobs *jobs)
{
    if (!jobs) return;
    forget_all(jobs);
    free(jobs->changed);
    free(jobs);
}

/* --------------------------------------------------------------------------------------------- submitting */

/* Packed protobuf of one library and one schema is canonical enough: the same client asking the same gives
 * the same bytes. An unknown field of a newer client counts as well. */
static bool hash_spec(const Refrain__JobSpec *spec, const char *tenant, XXH128_hash_t *hash)
{
    size_t bytes = refrain__job_spec__get_packed_size(spec);
    uint8_t *packed = malloc(bytes ? bytes : 1);
    if (!packed) return false;
    refrain__job_spec__pack(spec, packed);
    *hash = XXH3_128bits_withSeed(packed, bytes, tenant ? XXH3_64bits(tenant, strlen(tenant)) : 0);
    free(packed);
    return true;
}

status_t jobs_hash_spec(const Refrain__JobSpec *spec, uint8_t hash[REQUEST_HASH_BYTES], struct error *error)
{
    XXH128_hash_t value;
    XXH128_canonical_t canonical;
    if (!hash_spec(spec, NULL, &value)) return error_set(error, STATUS_NO_MEMORY, "no memory for the job");
    XXH128_canonicalFromHash(&canonical, value);
    memcpy(hash, canonical.digest, REQUEST_HASH_BYTES);
    return STATUS_OK;
}

/* What is left out says when it is made, for whom, and what becomes of the latent. */
uint64_t jobs_run(const char *tenant, const Refrain__JobSpec *spec)
{
    XXH128_hash_t hash;
    Refrain__JobSpec steps = *spec;
    if (spec->recompute || spec->resume_from || spec->compare) return 0;
    steps.has_fps = steps.has_save_latents = steps.has_save_frames = steps.has_priority = 0;
    steps.has_deadline_ms = steps.has_deadline_strict = steps.has_checkpoint_every = 0;
    steps.has_preview_every = steps.has_compare = steps.has_recompute = 0;
    steps.label = NULL;
    return hash_spec(&steps, tenant, &hash) ? hash.low64 : 0;
}

status_t jobs_find_same(struct jobs *jobs, const char *tenant, const char *key,
                        const uint8_t hash[REQUEST_HASH_BYTES], uint64_t *id, struct error *error)
{
    uint8_t stored[REQUEST_HASH_BYTES];
    uint64_t found;
    status_t status = jobstore_find_key(jobs->store, tenant, key, &found, stored, error);
    if (status != STATUS_OK) return status;
    if (memcmp(hash, stored, sizeof stored) != 0)
        return error_set(error, STATUS_CONFLICT,
                         "idempotency_key %s: job %" PRIu64 " has it and asked for something else", key,
                         found);
    *id = found;
    return STATUS_OK;
}

/* Accepted and queued in one transaction: both events are in the history, and nobody ever sees one without
 * the other. */
status_t jobs_submit(struct jobs *jobs, const struct submission *submission, int64_t now_ms, uint64_t *id,
                     struct error *error)
{
    const Refrain__JobSpec *spec = submission->spec;
    if (jobs->all.count >= jobs->limit)
        return error_set(error, STATUS_NO_MEMORY, "%zu jobs are waiting, no more are taken; try again later",
                         jobs->all.count);
    struct new_job new_job = {.tenant = submission->tenant,
                              .idempotency_key = submission->idempotency_key,
                              .spec = spec,
                              .submitted_ms = now_ms,
                              .deadline_at_ms = spec->deadline_ms ? now_ms + (int64_t)spec->deadline_ms : 0};
    uint64_t made;
    memcpy(new_job.hash, submission->hash, sizeof new_job.hash);
    status_t status = jobstore_submit(jobs->store, &new_job, &made, error);
    if (status != STATUS_OK) return status;
    struct stored_job stored = {
        .id = made,
        .sequence = 1,
        .tenant = submission->tenant,
        .model = spec->model,
        .state = REFRAIN__JOB_STATE__JOB_ACCEPTED,
        .priority = spec->priority,
        .submitted_ms = now_ms,
        .deadline_at_ms = new_job.deadline_at_ms,
        .work = jobstore_work(spec),
    };
    if ((status = adopt(jobs, &stored)) != STATUS_OK)
        return error_set(error, status, "no memory for the job");
    jobs->entered[REFRAIN__JOB_STATE__JOB_ACCEPTED]++;
    struct job_change change = {0};
    struct job *job = jobs_find(jobs, made);
    job->run = jobs_run(submission->tenant, spec);
    if ((status = move(jobs, job, REFRAIN__JOB_STATE__JOB_QUEUED, &change, now_ms, error)) != STATUS_OK)
        return status;
    *id = made;
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------------------------- asking */

struct job *jobs_find(const struct jobs *jobs, uint64_t id)
{
    return joblist_find(&jobs->all, id);
}

struct job *jobs_at(const struct jobs *jobs, size_t index)
{
    return index < jobs->all.count ? joblist_at(&jobs->all, index) : NULL;
}

/* Of one priority. */
static bool before(const struct job *a, const struct job *b)
{
    if ((a->attempt > 0) != (b->attempt > 0)) return a->attempt > 0;
    if (a->share != b->share && a->share->served != b->share->served)
        return a->share->served < b->share->served;
    int64_t due_a = a->deadline_at_ms ? a->deadline_at_ms : INT64_MAX;
    int64_t due_b = b->deadline_at_ms ? b->deadline_at_ms : INT64_MAX;
    return due_a != due_b ? due_a < due_b : a->id < b->id;
}

/* Looks at the whole queue: 10,000 jobs take some 50 us, once per job that starts. */
struct job *jobs_next(const struct jobs *jobs, bool (*may)(void *context, const struct job *job),
                      void *context)
{
    struct job *next = NULL;
    for (int priority = PRIORITIES - 1; priority >= 0 && !next; priority--)
        for (size_t i = 0; i < jobs->queues[priority].count; i++) {
            struct job *job = joblist_at(&jobs->queues[priority], i);
            if ((!next || before(job, next)) && (!may || may(context, job))) next = job;
        }
    return next;
}

/* Of one tenant and priority: what `before` says of them does not change as others are served. */
static int in_turn(const void *a, const void *b)
{
    const struct job *const *x = a, *const *y = b;
    uintptr_t p = (uintptr_t)(*x)->share, q = (uintptr_t)(*y)->share;
    bool again = (*x)->attempt > 0;
    if (again != ((*y)->attempt > 0)) return again ? -1 : 1;
    if (!again && p != q)
        return p < q ? -1 : 1; /* tenants apart; jobs that lost their ranks go by themselves */
    return before(*x, *y) ? -1 : 1;
}

/* A tenant's part of a sorted list. */
struct run {
    struct job **next, **end;
};

/* One priority, sorted in_turn, into `order`: those that lost their ranks, then of the tenant served least its next.
 * runs: room for `count`. */
static size_t merge_tenants(struct job **sorted, size_t count, struct run *runs, struct job **order,
                            size_t most)
{
    size_t made = 0, tenants = 0, at = 0;
    while (at < count && sorted[at]->attempt > 0 && made < most) order[made++] = sorted[at++];
    for (; at < count; tenants++) {
        struct tenant *share = sorted[at]->share;
        runs[tenants].next = &sorted[at];
        share->planned = share->served;
        while (at < count && sorted[at]->share == share) at++;
        runs[tenants].end = &sorted[at];
    }
    while (made < most) {
        struct run *best = NULL;
        for (size_t i = 0; i < tenants; i++) {
            struct run *run = &runs[i];
            if (run->next == run->end) continue;
            double mine = (*run->next)->share->planned, least = best ? (*best->next)->share->planned : mine;
            if (!best || mine < least || (mine == least && before(*run->next, *best->next))) best = run;
        }
        if (!best) break;
        struct job *job = *best->next++;
        job->share->planned += job->work;
        order[made++] = job;
    }
    return made;
}

size_t jobs_order(struct jobs *jobs, struct job *extra, struct job **order, size_t most)
{
    size_t made = 0;
    for (int priority = PRIORITIES - 1; priority >= 0 && made < most; priority--) {
        const struct joblist *queue = &jobs->queues[priority];
        size_t count = queue->count < most ? queue->count : most;
        struct job **sorted = malloc((count + 1) * sizeof *sorted);
        struct run *runs = malloc((count + 1) * sizeof *runs);
        for (size_t i = 0; sorted && i < count; i++) sorted[i] = joblist_at(queue, i);
        if (sorted && extra && (int)extra->priority == priority) sorted[count++] = extra;
        if (sorted) qsort(sorted, count, sizeof *sorted, in_turn);
        if (sorted && runs) made += merge_tenants(sorted, count, runs, order + made, most - made);
        free(runs);
        free(sorted);
    }
    return made;
}

struct job *jobs_sketch(struct jobs *jobs, const char *tenant, const Refrain__JobSpec *spec, int64_t now_ms)
{
    struct stored_job stored = {.id = UINT64_MAX,
                                .tenant = tenant,
                                .model = spec->model,
                                .state = REFRAIN__JOB_STATE__JOB_QUEUED,
                                .priority = spec->priority,
                                .submitted_ms = now_ms,
                                .deadline_at_ms = spec->deadline_ms ? now_ms + (int64_t)spec->deadline_ms : 0,
                                .work = jobstore_work(spec)};
    return job_make(jobs, &stored);
}

void jobs_drop_sketch(struct jobs *jobs, struct job *sketch)
{
    job_free(jobs, sketch);
}

void jobs_foreseen(struct jobs *jobs, int64_t now_ms)
{
    jobs->foreseen_ms = now_ms;
}

size_t jobs_count(const struct jobs *jobs)
{
    return jobs->all.count;
}

size_t jobs_ahead(const struct jobs *jobs, const struct job *job)
{
    size_t ahead = joblist_rank(&jobs->queues[job->priority], job->id);
    for (int priority = job->priority + 1; priority < PRIORITIES; priority++)
        ahead += jobs->queues[priority].count;
    return ahead;
}

/* Walks all unfinished jobs; asked only when a person removes a model. */
bool jobs_use_model(const struct jobs *jobs, const char *model)
{
    for (size_t i = 0; i < jobs->all.count; i++)
        if (strcmp(joblist_at(&jobs->all, i)->model, model) == 0) return true;
    return false;
}

/* Of a job that goes on where it was: it has made these steps, also before it says so itself. */
static void decorate_kept(const struct job *job, Refrain__Progress *out)
{
    if (!job->kept || (out->has_phase && out->phase >= REFRAIN__PHASE__PHASE_DENOISE)) return;
    out->has_step = out->has_steps = 1;
    out->step = job->kept;
    out->steps = job->outlook.steps;
}

/* Older moments of a history, and finished jobs, stay as they were stored. */
void jobs_decorate(const struct jobs *jobs, Refrain__Job *out)
{
    const struct job *job = jobs_find(jobs, out->job);
    /* An older moment of the job's history stays as it was. */
    if (!job || job->sequence != out->sequence || out->progress) return;
    if (job->state == REFRAIN__JOB_STATE__JOB_QUEUED) {
        out->has_ahead = 1;
        out->ahead = (uint32_t)jobs_ahead(jobs, job);
    }
    if (job->finish_ms > 0) {
        out->has_finish_ms = 1;
        out->finish_ms = (uint64_t)job->finish_ms;
    }
    if (job->finish_ms <= 0 && !job->progress.has_phase && !job->kept) return;
    if (!(out->progress = malloc(sizeof *out->progress))) return; /* only a courtesy */
    copy_progress(out->progress, &job->progress);
    decorate_kept(job, out->progress);
    if (job->finish_ms > 0) {
        out->progress->has_seconds_left = 1;
        out->progress->seconds_left = fmax(0, (double)(job->finish_ms - jobs->foreseen_ms) / 1000);
    }
}

status_t jobs_describe(struct jobs *jobs, const char *tenant, uint64_t id, Refrain__Job **out,
                       struct error *error)
{
    Refrain__Job *job;
    status_t status = jobstore_get(jobs->store, tenant, id, &job, error);
    if (status != STATUS_OK) return status;
    jobs_decorate(jobs, job);
    *out = job;
    return STATUS_OK;
}

void jobs_drop_tables(Refrain__Job *job)
{
    Refrain__JobSpec *spec = job->spec;
    for (size_t i = 0; i < spec->n_cache_tables; i++)
        refrain__cache_table__free_unpacked(spec->cache_tables[i], NULL);
    free(spec->cache_tables);
    spec->cache_tables = NULL;
    spec->n_cache_tables = 0;
}

/* ---------------------------------------------------------------------------------------------- deadlines */

int64_t jobs_next_deadline_ms(const struct jobs *jobs)
{
    return jobs->next_deadline_ms;
}

/* Scans only when the earliest deadline has come; the scan finds the next one. */
status_t jobs_expire(struct jobs *jobs, int64_t now_ms, struct error *error)
{
    if (now_ms < jobs->next_deadline_ms) return STATUS_OK;
    jobs->next_deadline_ms = INT64_MAX;
    status_t status = STATUS_OK;
    for (size_t i = jobs->all.count; i-- > 0;) { /* from the end: expired ones leave the list */
        struct job *job = joblist_at(&jobs->all, i);
        /* A cancelling job ends as cancelled; its deadline does not matter any more. */
        if (!job->deadline_at_ms || job->state == REFRAIN__JOB_STATE__JOB_CANCELLING) continue;
        if (job->deadline_at_ms <= now_ms && status == STATUS_OK) {
            status = jobs_finish(jobs, job, REFRAIN__JOB_STATE__JOB_EXPIRED, "its deadline has passed", NULL,
                                 now_ms, error);
            if (status == STATUS_OK) continue;
        }
        if (job->deadline_at_ms < jobs->next_deadline_ms) jobs->next_deadline_ms = job->deadline_at_ms;
    }
    return status;
}
