/* ring_kinds.c - see ring_kinds.h. */
#include "tests/ring_kinds.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/pipeline.h"

struct job_order kinds_order(int kind)
{
    static const char *const caches[KINDS] = {
        NULL,
        "dbcache:F=1,B=1,W=1,threshold=0.3,forecast=taylor1",
        "layers:begin=1,end=7,every=2",
        "interval:N=2,first=1,forecast=reuse",
        "dbprune:F=1,B=1,W=1,threshold=0.2",
        "dbcache:F=3,B=0,W=2,threshold=0.3",             /* its probe ends inside the ring */
        "seacache:threshold=0.9,first=1,forecast=reuse", /* looks at the input of block 0, wherever that is */
    };
    static const int sizes[3][3] = {{32, 32, 9}, {48, 32, 5}, {32, 64, 5}};
    return (struct job_order){.job = 1 + (uint64_t)kind,
                              .attempt = 1,
                              .prompt = "a small white ring bouncing on a teal background",
                              .negative = "a red square",
                              .seed = 7 + (uint64_t)kind,
                              .steps = KIND_STEPS,
                              .guidance = kind == 3 ? 1 : 4,
                              .shift = 3,
                              .width = sizes[kind % 3][0],
                              .height = sizes[kind % 3][1],
                              .frames = sizes[kind % 3][2],
                              .fps = 16,
                              .cache = caches[kind],
                              .priority = kind % 3};
}

/* What each kind gives on one member, alone. */
static struct pipeline_run alone[KINDS];

int kinds_run_alone(void **state)
{
    for (int i = 0; i < KINDS; i++) {
        alone[i] = (struct pipeline_run){.model = "models/reference", .order = kinds_order(i)};
        pipeline_execute(&alone[i]);
        if (alone[i].outcome != STATUS_OK) fail_msg("kind %d: %s", i, alone[i].error.text);
        if (i > 0)
            assert_true(i == 2 || i == 4 ||
                        alone[i].cache.report.reused + alone[i].cache.report.forecast > 0);
    }
    return 0;
}

int kinds_free(void **state)
{
    for (int i = 0; i < KINDS; i++) pipeline_free(&alone[i]);
    return 0;
}

void kinds_expect(const struct ring_run *ring)
{
    for (int i = 0; i < ring->count; i++) {
        const struct ring_job *job = &ring->jobs[i];
        const struct pipeline_run *like = &alone[job->order.job - 1];
        if (job->outcome != STATUS_OK)
            fail_msg("kind %d at home %d of %d: %s", (int)job->order.job - 1, job->home, ring->split.members,
                     job->error.text);
        assert_int_equal(job->latent_count, like->latent_count);
        if (memcmp(job->latents, like->latents, (size_t)job->latent_count * sizeof(float)) != 0)
            fail_msg("kind %d at home %d of %d: other latents", (int)job->order.job - 1, job->home,
                     ring->split.members);
    }
}

void kinds_run(struct split split, int each, int credits)
{
    struct ring_job jobs[32] = {0};
    struct ring_run ring = {.model = "models/reference", .split = split, .credits = credits, .jobs = jobs};
    for (int home = 0; home < (split.floating ? split.members : 1); home++)
        for (int i = 0; i < each; i++) {
            jobs[ring.count] = (struct ring_job){.order = kinds_order(ring.count % KINDS), .home = home};
            ring.count++;
        }
    ring_execute(&ring);
    kinds_expect(&ring);
    ring_free(&ring);
}
