/*
 * test_metrics.c - what the coordinator tells a Prometheus: the format, the values, and the port that must not be hurt by
 * whoever comes there. Ranks are scripted (tests/coordinator_rig.h).
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/clock.h"
#include "cache/tier/key.h"
#include "cache/tier/miss.h"
#include "coordinator/metrics/counts.h"
#include "coordinator/metrics/scrape.h"
#include "tests/coordinator_rig.h"
#include "tests/scraped.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

static const char *const with_metrics[] = {"--metrics", "127.0.0.1:*", NULL};

/* -------------------------------------------------------------------------------------------------- writing */

static char *text_of(struct exposition *out)
{
    assert_false(out->failed);
    char *text = calloc(1, out->bytes + 1);
    assert_non_null(text);
    memcpy(text, out->text, out->bytes);
    exposition_free(out);
    return text;
}

static void values_of_labels_may_hold_anything(void **state)
{
    (void)state;
    struct exposition out = {0};
    exposition_family(&out, "x", EXPOSED_GAUGE, "Some.");
    exposition_value(&out, 1.5, LABELS({"a", "say \"\\\"\nand go"}, {"b", ""}));
    exposition_value(&out, NAN, NO_LABELS);
    exposition_value(&out, -INFINITY, LABELS({"a", "ä"}));
    exposition_value(&out, 9007199254740993.0, LABELS({"a", "c"}));
    exposition_value(&out, 0.1, LABELS({"a", "d"}));
    char *text = text_of(&out);
    assert_string_equal(text, "# HELP x Some.\n# TYPE x gauge\n"
                              "x{a=\"say \\\"\\\\\\\"\\nand go\",b=\"\"} 1.5\n"
                              "x NaN\nx{a=\"ä\"} -Inf\nx{a=\"c\"} 9007199254740992\nx{a=\"d\"} 0.1\n");
    scraped_free(scraped_read(text));
    free(text);
}

static void buckets_hold_all_that_is_below_them(void **state)
{
    (void)state;
    static const double bounds[] = {0.5, 1, 10};
    struct histogram histogram = {.bounds = bounds, .buckets = 3};
    struct exposition out = {0};
    histogram_add(&histogram, 0.5, 1);
    histogram_add(&histogram, 0.75, 2);
    histogram_add(&histogram, 1000, 1);
    histogram_add(&histogram, NAN, 5);
    histogram_add(&histogram, INFINITY, 5);
    histogram_add(&histogram, -1, 5);
    exposition_family(&out, "x_seconds", EXPOSED_HISTOGRAM, "Times.");
    exposition_histogram(&out, &histogram, LABELS({"of", "y"}));
    char *text = text_of(&out);
    struct scraped *seen = scraped_read(text);
    assert_true(scraped_value(seen, "x_seconds_bucket{of=\"y\",le=\"0.5\"}") == 1);
    assert_true(scraped_value(seen, "x_seconds_bucket{of=\"y\",le=\"1\"}") == 3);
    assert_true(scraped_value(seen, "x_seconds_bucket{of=\"y\",le=\"10\"}") == 3);
    assert_true(scraped_value(seen, "x_seconds_bucket{of=\"y\",le=\"+Inf\"}") == 4);
    assert_true(scraped_value(seen, "x_seconds_sum{of=\"y\"}") == 1002);
    assert_true(scraped_value(seen, "x_seconds_count{of=\"y\"}") == 4);
    scraped_free(seen);
    free(text);
}

static void a_first_report_says_where_a_job_begins_and_not_what_was_made(void **state)
{
    (void)state;
    struct counts counts;
    struct job job = {.progress = REFRAIN__PROGRESS__INIT, .model = (char *)"m"};
    Refrain__Progress report = REFRAIN__PROGRESS__INIT;
    counts_open(&counts);
    SET(report, phase, REFRAIN__PHASE__PHASE_DENOISE);
    SET(report, step, 20); /* went on from a checkpoint */
    SET(report, step_seconds, 0.3);
    counts_progress(&counts, &job, &report);
    assert_int_equal(counts.models[0].steps, 0);
    job.progress = report;
    report.step = 23;
    counts_progress(&counts, &job, &report);
    assert_int_equal(counts.models[0].steps, 3);
    job.progress = report;
    report.step = 21; /* a new attempt */
    report.step_seconds = NAN;
    counts_progress(&counts, &job, &report);
    assert_int_equal(counts.models[0].steps, 3);
    assert_true(fabs(counts.models[0].step.sum - 0.9) < 1e-12);
}

static void numbers_that_no_rank_can_mean_are_not_added(void **state)
{
    (void)state;
    struct counts counts;
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    Refrain__JobTimes times = REFRAIN__JOB_TIMES__INIT;
    Refrain__CacheReport report = REFRAIN__CACHE_REPORT__INIT;
    counts_open(&counts);
    spec.cache = (char *)"dbcache:F1B0,threshold=0.12";
    spec.model = (char *)"m", spec.steps = 10, spec.frames = 17, spec.guidance = 4;
    report.computed = 12, report.reused = 6, report.forecast = 2, report.seconds_saved = -INFINITY;
    times.text = NAN, times.denoise = 2, times.decode = -1, times.queued = INFINITY, times.total = 3;
    counts_completed(&counts, &spec, &times, &report);
    spec.cache = (char *)"off";
    counts_completed(&counts, &spec, NULL, NULL);
    spec.cache = (char *)"no such policy";
    counts_completed(&counts, &spec, NULL, NULL);
    const struct counted_model *m = &counts.models[0];
    assert_true(m->phase_seconds[COUNTED_TEXT] == 0 && m->phase_seconds[COUNTED_DENOISE] == 2);
    assert_true(m->phase_seconds[COUNTED_DECODE] == 0 && m->queued.sum == 0 && m->total.sum == 3);
    assert_int_equal(m->frames, 51);
    assert_int_equal(counts.policies[0].jobs, 2);
    assert_int_equal(counts.policies[0].branch_steps[0], 40);
    assert_int_equal(counts.policies[1].jobs, 1);
    assert_int_equal(counts.policies[1].branch_steps[1], 6);
    assert_true(counts.policies[1].seconds_saved == 0);
    spec.cache = (char *)"dbcache:F1B0,threshold=0.12";
    times.steps_reused = 10, times.reused_seconds = 1.5; /* whose report is another job's */
    counts_completed(&counts, &spec, &times, &report);
    spec.cache = (char *)"off";
    counts_completed(&counts, &spec, &times, NULL);
    assert_int_equal(counts.policies[1].jobs, 2);
    assert_int_equal(counts.policies[1].branch_steps[1], 6);
    assert_int_equal(counts.policies[0].branch_steps[0], 40);
    assert_int_equal(counts.steps_reused, 20);
    assert_true(counts.reused_seconds == 3);
    counts_foretold(&counts, 900, 1000);
    counts_foretold(&counts, 0, 1000);
    assert_true(fabs(counts.finish_error.sum - 0.1) < 1e-12);
}

static void further_models_are_added_up(void **state)
{
    (void)state;
    struct counts counts;
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    char name[16];
    counts_open(&counts);
    spec.model = name, spec.steps = 1, spec.guidance = 1, spec.frames = 1;
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < COUNTED_MODELS + 5; i++) {
            snprintf(name, sizeof name, "m%d", i);
            counts_completed(&counts, &spec, NULL, NULL);
        }
    for (int i = 0; i < COUNTED_MODELS; i++) assert_int_equal(counts.models[i].frames, 2);
    assert_int_equal(counts.models[COUNTED_MODELS].frames, 10);
}

/* --------------------------------------------------------------------------------------------------- values */

static void submit_and_begin(struct rig *rig, void **client, struct fake_worker *worker, uint64_t *job,
                             uint32_t *attempt)
{
    rig_start(rig, with_metrics);
    rig_add_model(rig, "small");
    *client = rig_client(rig);
    fake_worker_open(worker, rig, "0123456789abcdef", 0, 1);
    fake_workers_join(worker, 1);
    *job = rig_submit(*client, "a secret prompt");
    fake_workers_load(worker, 1);
    fake_worker_take(worker, job, attempt);
}

static void end(struct rig *rig, void *client, struct fake_worker *worker)
{
    fake_worker_close(worker);
    zmq_close(client);
    rig_stop(rig);
}

/* Until the series has that value: reports travel. */
static struct scraped *await_value(const char *url, const char *name, double value)
{
    double last = NAN;
    for (int tries = 0; tries < 300; tries++) {
        struct scraped *seen = scraped_get(url);
        if (scraped_has(seen, name) && (last = scraped_value(seen, name)) == value) return seen;
        scraped_free(seen);
        usleep(100000); /* a text is told again for a while */
    }
    fail_msg("%s is %g, not %g", name, last, value);
    return NULL;
}

static void expect(const struct scraped *seen, const char *name, double value)
{
    if (scraped_value(seen, name) != value)
        fail_msg("%s is %g, not %g", name, scraped_value(seen, name), value);
}

static void a_job_is_seen_in_every_state_and_nothing_that_counts_falls(void **state)
{
    (void)state;
    struct rig rig = {0};
    struct fake_worker worker;
    void *client;
    uint64_t job, other, hash;
    uint32_t attempt;
    submit_and_begin(&rig, &client, &worker, &job, &attempt);
    struct scraped *began = await_value(rig.metrics, "refrain_jobs{state=\"running\"}", 1);
    expect(began, "refrain_jobs{state=\"queued\"}", 0);
    expect(began, "refrain_jobs_submitted_total", 1);
    expect(began, "refrain_ranks{state=\"here\"}", 1);
    expect(began, "refrain_groups_ready", 1);
    expect(began, "refrain_jobs_in_flight", 1);
    expect(began, "refrain_jobs_finished_total{state=\"completed\"}", 0);
    for (uint32_t step = 0; step <= 2; step++) fake_worker_progress(&worker, job, attempt, step);
    struct scraped *made = await_value(rig.metrics, "refrain_steps_total{model=\"small\"}", 2);
    expect(made, "refrain_step_seconds_count{model=\"small\"}", 2);
    expect(made, "refrain_step_seconds_sum{model=\"small\"}", 0.5);
    expect(made, "refrain_checkpoint_lag_steps", 2);
    expect(made, "refrain_checkpoint_lag_seconds", 0.5);
    scraped_expect_grown(began, made);
    fake_worker_upload(&worker, job, attempt, "video.mp4", 1000, 3, &hash);
    fake_worker_done(&worker, job, attempt, "video.mp4", 1000, hash);
    rig_await(client, job, REFRAIN__JOB_STATE__JOB_COMPLETED);
    struct scraped *done = await_value(rig.metrics, "refrain_jobs_finished_total{state=\"completed\"}", 1);
    expect(done, "refrain_jobs{state=\"running\"}", 0);
    expect(done, "refrain_job_run_seconds_count{model=\"small\"}", 1);
    expect(done, "refrain_job_queue_seconds_count{model=\"small\"}", 1);
    expect(done, "refrain_frames_total{model=\"small\"}", 17);
    expect(done, "refrain_policy_jobs_total{policy=\"off\"}", 1);
    expect(done, "refrain_policy_branch_steps_total{policy=\"off\",action=\"computed\"}", 6);
    scraped_expect_grown(made, done);
    other = rig_submit(client, "another");
    fake_worker_take(&worker, &other, &attempt);
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__JobFailed failed = REFRAIN__JOB_FAILED__INIT;
    SET(failed, job, other);
    SET(failed, attempt, attempt);
    SET(failed, status, STATUS_CORRUPT);
    report.body_case = REFRAIN__WORKER_REPORT__BODY_FAILED;
    report.failed = &failed;
    fake_worker_report(&worker, &report);
    struct scraped *lost = await_value(rig.metrics, "refrain_jobs_finished_total{state=\"failed\"}", 1);
    expect(lost, "refrain_jobs_submitted_total", 2);
    expect(lost, "refrain_jobs_requeued_total", 0);
    scraped_expect_grown(done, lost);
    scraped_free(began), scraped_free(made), scraped_free(done), scraped_free(lost);
    end(&rig, client, &worker);
}

static void what_waits_is_seen_by_priority_and_a_lost_rank_as_missing(void **state)
{
    (void)state;
    struct rig rig = {0};
    struct fake_worker worker;
    void *client;
    uint64_t job;
    uint32_t attempt;
    submit_and_begin(&rig, &client, &worker, &job, &attempt);
    fake_worker_goodbye(&worker, "enough"); /* nobody can replace it: the group goes, the job waits again */
    struct scraped *seen = await_value(rig.metrics, "refrain_queue_jobs{priority=\"normal\"}", 1);
    expect(seen, "refrain_queue_jobs{priority=\"high\"}", 0);
    expect(seen, "refrain_jobs{state=\"queued\"}", 1);
    expect(seen, "refrain_jobs_requeued_total", 1);
    expect(seen, "refrain_jobs_submitted_total", 1);
    expect(seen, "refrain_ranks{state=\"here\"}", 0);
    assert_true(scraped_value(seen, "refrain_queue_oldest_seconds") > 0);
    scraped_free(seen);
    end(&rig, client, &worker);
}

static void report_tally(struct fake_worker *worker, uint64_t tenant, uint32_t kind, uint64_t factor)
{
    Refrain__WorkerReport report = REFRAIN__WORKER_REPORT__INIT;
    Refrain__TierFigures figures = REFRAIN__TIER_FIGURES__INIT;
    Refrain__TierTally tally = REFRAIN__TIER_TALLY__INIT, *pointer = &tally;
    uint64_t bytes[3] = {0, 1000 * factor, 10 * factor}, hits[3] = {0, 5 * factor, 2 * factor},
             evictions[3] = {0, factor, 0}, limits[3] = {0, 1 << 20, 1 << 22}, used[3] = {0, 4096, 77},
             misses[MISSES] = {[MISS_ABSENT] = 7 * factor, [MISS_FOREIGN] = factor};
    SET(tally, tenant, tenant);
    SET(tally, kind, kind);
    SET(tally, items, 3 * factor);
    SET(tally, published, 4 * factor);
    SET(tally, refused, 6 * factor);
    SET(tally, fetched, 8 * factor);
    SET(tally, lent, 9 * factor);
    SET(tally, copied, 11 * factor);
    SET(tally, seconds_saved, 0.25 * (double)factor);
    tally.bytes = bytes, tally.hits = hits, tally.evictions = evictions;
    tally.n_bytes = tally.n_hits = tally.n_evictions = 3;
    tally.misses = misses, tally.n_misses = MISSES;
    figures.tallies = &pointer, figures.n_tallies = 1;
    figures.limit_bytes = limits, figures.used_bytes = used;
    figures.n_limit_bytes = figures.n_used_bytes = 3;
    report.body_case = REFRAIN__WORKER_REPORT__BODY_TIER_FIGURES;
    report.tier_figures = &figures;
    fake_worker_report(worker, &report);
}

static double tier_value(const struct scraped *seen, const char *name, const Refrain__CacheFigure *figure,
                         const char *more)
{
    char series[256];
    snprintf(series, sizeof series, "refrain_tier_%s{group=\"%s\",rank=\"%u\",kind=\"%s\"%s}", name,
             figure->group, figure->rank, figure->kind, more);
    return scraped_value(seen, series);
}

static void expect_figure(const struct scraped *seen, const Refrain__CacheFigure *figure)
{
    const Refrain__TierTally *tally = figure->tally;
    assert_true(tier_value(seen, "items", figure, "") == (double)tally->items);
    assert_true(tier_value(seen, "item_bytes", figure, ",level=\"host\"") == (double)tally->bytes[1]);
    assert_true(tier_value(seen, "item_bytes", figure, ",level=\"disk\"") == (double)tally->bytes[2]);
    assert_true(tier_value(seen, "hits_total", figure, ",level=\"host\"") == (double)tally->hits[1]);
    assert_true(tier_value(seen, "hits_total", figure, ",level=\"disk\"") == (double)tally->hits[2]);
    assert_true(tier_value(seen, "evictions_total", figure, ",level=\"host\"") ==
                (double)tally->evictions[1]);
    assert_true(tier_value(seen, "fetched_total", figure, "") == (double)tally->fetched);
    assert_true(tier_value(seen, "lent_total", figure, "") == (double)tally->lent);
    assert_true(tier_value(seen, "copied_total", figure, "") == (double)tally->copied);
    assert_true(tier_value(seen, "published_total", figure, "") == (double)tally->published);
    assert_true(tier_value(seen, "refused_total", figure, "") == (double)tally->refused);
    assert_true(tier_value(seen, "saved_seconds_total", figure, "") == tally->seconds_saved);
    for (int i = 0; i < MISSES; i++) {
        char reason[64];
        snprintf(reason, sizeof reason, ",reason=\"%s\"", miss_name((enum miss)i));
        assert_true(tier_value(seen, "misses_total", figure, reason) == (double)tally->misses[i]);
    }
}

/* The sums over tenants that an admin is shown are those that are scraped, and say nothing of whose they are. */
static void figures_of_the_tier_are_those_of_the_cache_verb(void **state)
{
    (void)state;
    struct rig rig = {0};
    struct fake_worker workers[2];
    Refrain__Request request = REFRAIN__REQUEST__INIT;
    Refrain__CacheQuery query = REFRAIN__CACHE_QUERY__INIT;
    rig_start(&rig, with_metrics);
    for (uint32_t rank = 0; rank < 2; rank++)
        fake_worker_open(&workers[rank], &rig, "0123456789abcdef", rank, 2);
    fake_workers_join(workers, 2);
    report_tally(&workers[0], 17, ITEM_TEXT, 1);
    report_tally(&workers[0], 18, ITEM_TEXT, 100);
    report_tally(&workers[0], KEY_PUBLIC, ITEM_TABLE, 3);
    report_tally(&workers[1], 18, ITEM_FIRST_STEP, 5);
    struct scraped *seen = await_value(
        rig.metrics, "refrain_tier_items{group=\"0123456789abcdef\",rank=\"1\",kind=\"first-step\"}", 15);
    void *client = rig_client(&rig);
    SET(query, all, 1);
    request.body_case = REFRAIN__REQUEST__BODY_CACHE;
    request.cache = &query;
    Refrain__Reply *reply = rig_call(client, &request);
    assert_int_equal(reply->body_case, REFRAIN__REPLY__BODY_CACHE);
    assert_int_equal(reply->cache->n_figures, 3);
    for (size_t i = 0; i < 3; i++) expect_figure(seen, reply->cache->figures[i]);
    refrain__reply__free_unpacked(reply, NULL);
    expect(seen, "refrain_tier_items{group=\"0123456789abcdef\",rank=\"0\",kind=\"text\"}", 303);
    expect(seen, "refrain_tier_limit_bytes{group=\"0123456789abcdef\",rank=\"0\",level=\"host\"}", 1 << 20);
    expect(seen, "refrain_tier_used_bytes{group=\"0123456789abcdef\",rank=\"0\",level=\"disk\"}", 77);
    report_tally(&workers[0], 17, ITEM_TEXT, 2);
    struct scraped *later = await_value(
        rig.metrics, "refrain_tier_items{group=\"0123456789abcdef\",rank=\"0\",kind=\"text\"}", 306);
    scraped_expect_grown(seen, later);
    scraped_free(seen), scraped_free(later);
    zmq_close(client);
    for (int i = 0; i < 2; i++) fake_worker_close(&workers[i]);
    rig_stop(&rig);
}

static void nothing_in_it_tells_whose_work_it_is(void **state)
{
    (void)state;
    struct rig rig = {0};
    struct fake_worker worker;
    void *client;
    char *answer;
    uint64_t job;
    uint32_t attempt;
    submit_and_begin(&rig, &client, &worker, &job, &attempt);
    fake_worker_progress(&worker, job, attempt, 1);
    scraped_free(await_value(rig.metrics, "refrain_jobs{state=\"running\"}", 1));
    assert_int_equal(http_get(rig.metrics, "/metrics", &answer), 200);
    assert_null(strstr(answer, "secret"));
    assert_null(strstr(answer, "tenant"));
    assert_non_null(strstr(answer, "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"));
    free(answer);
    end(&rig, client, &worker);
}

/* ------------------------------------------------------------------------------------------------- the port */

static int say(const char *url, const char *words)
{
    char *answer;
    int code = http_say(url, words, strlen(words), &answer);
    free(answer);
    return code;
}

static void only_get_of_metrics_is_answered(void **state)
{
    (void)state;
    struct rig rig = {0};
    rig_start(&rig, with_metrics);
    static const struct {
        const char *words;
        int code;
    } cases[] = {{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404},
                 {"GET /metrics/ HTTP/1.1\r\nHost: x\r\n\r\n", 404},
                 {"GET /../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", 404},
                 {"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405},
                 {"DELETE /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 405},
                 {"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000000\r\n\r\nabc", 405},
                 {"PUT /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n", 405},
                 {"GET /metrics HTTP/1.1\r\n\r\n", 400}, /* no Host */
                 {"GET /metrics?a=b HTTP/1.1\r\nHost: x\r\n\r\n", 200},
                 {"GET /metrics HTTP/1.0\r\n\r\n", 200}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int code = say(rig.metrics, cases[i].words);
        if (code != cases[i].code) fail_msg("%s: %d and not %d", cases[i].words, code, cases[i].code);
    }
    rig_stop(&rig);
}

/* Whatever is said, the next one who asks is answered. */
static void garbage_does_no_harm(void **state)
{
    (void)state;
    struct rig rig = {0};
    enum { LONG = 1 << 20 };
    char *words = malloc(LONG), *answer;
    unsigned random = 12345;
    assert_non_null(words);
    rig_start(&rig, with_metrics);
    memset(words, 'a', LONG);
    memcpy(words, "GET /", 5); /* a path without end */
    assert_int_not_equal(http_say(rig.metrics, words, LONG, &answer), 200);
    free(answer);
    for (size_t at = 24; at + 8 < LONG; at += 8)
        memcpy(words + at, "a: b\r\nc:", 8); /* headers without end */
    memcpy(words, "GET /metrics HTTP/1.1\r\n\n", 23);
    assert_int_not_equal(http_say(rig.metrics, words, LONG, &answer), 200);
    free(answer);
    for (int round = 0; round < 40; round++) {
        size_t bytes = 1 + (random >> 8) % 3000;
        for (size_t i = 0; i < bytes; i++) words[i] = (char)((random = random * 1664525 + 1013904223) >> 16);
        if (round % 2) memcpy(words, "GET /metrics HTTP/1.1\r\n", bytes < 23 ? bytes : 23);
        memcpy(words + bytes, "\r\n\r\n", 4); /* or it would be waited for */
        http_say(rig.metrics, words, bytes + 4, &answer);
        free(answer);
    }
    struct scraped *seen = scraped_get(rig.metrics);
    scraped_free(seen);
    free(words);
    rig_stop(&rig);
}

/* Connections that say a byte now and then, more of them than there may be: each is over after three seconds, and one who
 * asks properly is answered by then. */
static void slow_ones_keep_nobody_out(void **state)
{
    (void)state;
    enum { SLOW = 2 * SCRAPE_VISITS };
    struct rig rig = {0};
    int slow[SLOW], ended = 0;
    char byte;
    rig_start(&rig, with_metrics);
    for (int i = 0; i < SLOW; i++) {
        slow[i] = http_connect(rig.metrics);
        if (slow[i] >= 0) send(slow[i], "G", 1, MSG_NOSIGNAL);
    }
    struct scraped *seen = scraped_get(rig.metrics); /* fails after 15 s */
    scraped_free(seen);
    for (int round = 0; round < 300 && ended < SLOW; round++, usleep(100000)) {
        for (int i = 0; i < SLOW; i++) {
            if (slow[i] < 0) continue;
            send(slow[i], "E", 1, MSG_NOSIGNAL);
            if (recv(slow[i], &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN) continue;
            close(slow[i]);
            slow[i] = -1;
        }
        ended = 0;
        for (int i = 0; i < SLOW; i++) ended += slow[i] < 0;
    }
    assert_int_equal(ended, SLOW);
    rig_stop(&rig);
}

static void many_at_once_are_all_answered(void **state)
{
    (void)state;
    enum { MANY = 48 }; /* more than may be connected */
    struct rig rig = {0};
    char *answers[MANY];
    int with[MANY];
    rig_start(&rig, with_metrics);
    const char *words = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    for (int i = 0; i < MANY; i++) {
        with[i] = http_connect(rig.metrics);
        assert_true(with[i] >= 0);
        send(with[i], words, strlen(words), MSG_NOSIGNAL);
    }
    for (int i = 0; i < MANY; i++) {
        size_t got = 0;
        assert_non_null(answers[i] = calloc(1, 1 << 16));
        for (ssize_t part; (part = recv(with[i], answers[i] + got, (1 << 16) - 1 - got, 0)) > 0;)
            got += (size_t)part;
        scraped_free(scraped_read(http_body(answers[i])));
        free(answers[i]);
        close(with[i]);
    }
    scraped_free(scraped_get(rig.metrics));
    rig_stop(&rig);
}

/* Whatever was open when it died: the next one has the port, and counts from zero. */
static void after_a_kill_the_port_is_there_again(void **state)
{
    (void)state;
    struct rig rig = {0};
    struct fake_worker worker;
    void *client;
    uint64_t job;
    uint32_t attempt;
    char address[160];
    submit_and_begin(&rig, &client, &worker, &job, &attempt);
    scraped_free(await_value(rig.metrics, "refrain_jobs_submitted_total", 1));
    int open = http_connect(rig.metrics);
    snprintf(address, sizeof address, "%s", rig.metrics + strlen("http://"));
    *strchr(address, '/') = '\0';
    const char *const again[] = {"--metrics", address, NULL};
    rig_kill(&rig);
    rig.options = again;
    rig_restart(&rig);
    struct scraped *seen = scraped_get(rig.metrics);
    expect(seen, "refrain_jobs_submitted_total", 0);
    expect(seen, "refrain_jobs{state=\"running\"}", 1); /* as the store says, until its rank is back */
    scraped_free(seen);
    close(open);
    end(&rig, client, &worker);
}

static void a_coordinator_with_a_wrong_address_does_not_begin(void **state)
{
    (void)state;
    const char *const options[] = {"--metrics", "nonsense", NULL};
    struct rig rig = {.options = options, .quiet = true};
    rig_prepare(&rig);
    assert_false(rig_launch(&rig));
    rig_stop(&rig);
}

/* The loop's part is played by the test: it says nothing, then something, then ends while somebody waits. */
static void who_asks_waits_for_the_loop_and_not_for_ever(void **state)
{
    (void)state;
    struct scrape *scrape;
    struct error error;
    char *answer;
    assert_int_equal(scrape_open(":0", &scrape, &error), STATUS_OK);
    assert_int_equal(strncmp(scrape_url(scrape), "http://127.0.0.1:", 17), 0);
    int64_t began_ns = clock_now_ns();
    assert_int_equal(http_get(scrape_url(scrape), "/metrics", &answer), 503);
    free(answer);
    assert_true(clock_now_ns() - began_ns >= SECOND_NS);
    struct pollfd wanted = {.fd = scrape_descriptor(scrape), .events = POLLIN};
    assert_int_equal(poll(&wanted, 1, 0), 1);
    assert_true(scrape_wanted(scrape));
    assert_false(scrape_wanted(scrape));
    assert_int_equal(poll(&wanted, 1, 0), 0);
    scrape_give(scrape, strdup("never read\n"), 11);
    scrape_give(scrape, strdup("x 1\n"), 4);
    for (int tries = 0; http_get(scrape_url(scrape), "/metrics", &answer) != 200; tries++) {
        assert_true(tries < 20); /* asked so late that it was not fresh any more */
        free(answer);
        scrape_wanted(scrape);
        scrape_give(scrape, strdup("x 1\n"), 4);
    }
    assert_string_equal(http_body(answer), "x 1\n");
    free(answer);
    assert_false(scrape_wanted(scrape)); /* it was fresh */
    usleep(400000);
    int waits = http_connect(scrape_url(scrape));
    const char *words = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n";
    send(waits, words, strlen(words), MSG_NOSIGNAL);
    assert_int_equal(poll(&wanted, 1, 30000), 1);
    assert_true(scrape_wanted(scrape));
    scrape_close(scrape);
    close(waits);
}

static void addresses_that_are_none_are_refused_with_a_sentence(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",          "x",        "127.0.0.1",    "127.0.0.1:",      "127.0.0.1:70000",
        "here:9464", "::1:9464", "127.0.0.1:-1", "127.0.0.1:94 64", "[::1]:9x"};
    struct scrape *scrape, *second;
    struct error error;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(scrape_check(bad[i], &error), STATUS_INVALID);
        assert_int_equal(scrape_open(bad[i], &scrape, &error), STATUS_INVALID);
        assert_non_null(strstr(error.text, "--metrics"));
    }
    assert_int_equal(scrape_check("[::1]:9464", &error), STATUS_OK);
    assert_int_equal(scrape_open("127.0.0.1:*", &scrape, &error), STATUS_OK);
    char taken[64];
    snprintf(taken, sizeof taken, "%s", scrape_url(scrape) + strlen("http://"));
    *strchr(taken, '/') = '\0';
    assert_int_equal(scrape_open(taken, &second, &error), STATUS_IO); /* it is in use */
    assert_non_null(strstr(error.text, taken));
    scrape_close(scrape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_of_labels_may_hold_anything),
        cmocka_unit_test(buckets_hold_all_that_is_below_them),
        cmocka_unit_test(a_first_report_says_where_a_job_begins_and_not_what_was_made),
        cmocka_unit_test(numbers_that_no_rank_can_mean_are_not_added),
        cmocka_unit_test(further_models_are_added_up),
        cmocka_unit_test(a_job_is_seen_in_every_state_and_nothing_that_counts_falls),
        cmocka_unit_test(what_waits_is_seen_by_priority_and_a_lost_rank_as_missing),
        cmocka_unit_test(figures_of_the_tier_are_those_of_the_cache_verb),
        cmocka_unit_test(nothing_in_it_tells_whose_work_it_is),
        cmocka_unit_test(only_get_of_metrics_is_answered),
        cmocka_unit_test(garbage_does_no_harm),
        cmocka_unit_test(slow_ones_keep_nobody_out),
        cmocka_unit_test(many_at_once_are_all_answered),
        cmocka_unit_test(after_a_kill_the_port_is_there_again),
        cmocka_unit_test(who_asks_waits_for_the_loop_and_not_for_ever),
        cmocka_unit_test(a_coordinator_with_a_wrong_address_does_not_begin),
        cmocka_unit_test(addresses_that_are_none_are_refused_with_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
