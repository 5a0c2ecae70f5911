/*
 * scraped.h - for tests: a plain HTTP client, and a strict reader of Prometheus' text format.
 *
 *     int code = http_say(url, "GET /metrics HTTP/1.1\r\n...", &answer);      free(answer)
 *     struct scraped *seen = scraped_get(url);
 *     double value = scraped_value(seen, "refrain_jobs{state=\"queued\"}");
 *     scraped_free(seen);
 *
 * The reader fails the running test at the first line that is not as the format, or good manners with names, want it: HELP and
 * TYPE before each family's values, all values of a family together, none twice, counters named _total and no others,
 * buckets that grow and end with the count.
 */
#ifndef REFRAIN_TESTS_SCRAPED_H
#define REFRAIN_TESTS_SCRAPED_H

#include <stdbool.h>
#include <stddef.h>

struct scraped {
    char *text; /* owned; lines are ended in place */
    struct series {
        const char *name; /* with its labels */
        double value;
        bool counts; /* it must not fall: a counter, or a part of a histogram */
    } * list;        /* [count] */
    size_t count;
};

/* A connection to a URL of --metrics, -1: refused. */
int http_connect(const char *url);
/* Says it all, then reads until the other side ends, 15 s at most. The status code, 0: no answer. *answer: the whole, the
 * caller's. */
int http_say(const char *url, const char *words, size_t bytes, char **answer);
int http_get(const char *url, const char *path, char **answer);
const char *http_body(const char *answer);

struct scraped *scraped_read(const char *text);
struct scraped *scraped_get(const char *url);
bool scraped_has(const struct scraped *seen, const char *name);
double scraped_value(const struct scraped *seen, const char *name); /* fails the test when it is not there */
/* Nothing that counts is less than before. */
void scraped_expect_grown(const struct scraped *before, const struct scraped *after);
void scraped_free(struct scraped *seen);

#endif
