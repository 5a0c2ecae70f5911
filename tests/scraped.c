/* scraped.c - see scraped.h. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <ctype.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "base/clock.h"
#include "tests/scraped.h"

enum { ANSWER_MS = 15000, ANSWER_BYTES = 4 << 20, FAMILIES = 256 };

/* ----------------------------------------------------------------------------------------------------- HTTP */

int http_connect(const char *url)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    unsigned port;
    assert_int_equal(sscanf(url, "http://127.0.0.1:%u/metrics", &port), 1);
    to.sin_port = htons((uint16_t)port);
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(made >= 0);
    if (connect(made, (struct sockaddr *)&to, sizeof to) == 0) return made;
    close(made);
    return -1;
}

int http_say(const char *url, const char *words, size_t bytes, char **answer)
{
    int code = 0, with = http_connect(url);
    char *text = malloc(ANSWER_BYTES);
    size_t got = 0;
    assert_non_null(text);
    int64_t end_ns = clock_now_ns() + ANSWER_MS * MILLISECOND_NS;
    for (size_t said = 0; with >= 0 && said < bytes;) {
        ssize_t part = send(with, words + said, bytes - said, MSG_NOSIGNAL);
        if (part <= 0) break; /* it has heard enough */
        said += (size_t)part;
    }
    while (with >= 0 && got < ANSWER_BYTES - 1) {
        struct pollfd ready = {.fd = with, .events = POLLIN};
        if (poll(&ready, 1, clock_poll_ms(end_ns)) <= 0)
            fail_msg("no end of an answer after %d ms", ANSWER_MS);
        ssize_t part = recv(with, text + got, ANSWER_BYTES - 1 - got, 0);
        if (part <= 0) break;
        got += (size_t)part;
    }
    if (with >= 0) close(with);
    text[got] = '\0';
    if (sscanf(text, "HTTP/1.%*d %d", &code) != 1) code = 0;
    *answer = text;
    return code;
}

int http_get(const char *url, const char *path, char **answer)
{
    char words[512];
    int length = snprintf(words, sizeof words, "GET %s HTTP/1.1\r\nHost: here\r\n\r\n", path);
    return http_say(url, words, (size_t)length, answer);
}

const char *http_body(const char *answer)
{
    const char *end = strstr(answer, "\r\n\r\n");
    if (!end) fail_msg("no HTTP answer: %.80s", answer);
    return end + 4;
}

/* ---------------------------------------------------------------------------------------------- the format */

struct family {
    char name[128], type[16];
    bool helped, valued;
    double bucket, bound; /* of the histogram's series at work */
    char labels[256];     /* that it has beside le */
};

static void expect_name(const char *name, size_t length)
{
    assert_true(length > 0 && (isalpha((unsigned char)name[0]) || name[0] == '_'));
    for (size_t i = 0; i < length; i++)
        if (!isalnum((unsigned char)name[i]) && name[i] != '_')
            fail_msg("%.*s is no name", (int)length, name);
}

/* The end of {name="value",...}: values hold no bare quote, backslash or end of line. */
static const char *expect_labels(const char *at)
{
    do {
        const char *name = ++at;
        at += strcspn(at, "=");
        expect_name(name, (size_t)(at - name));
        assert_true(at[0] == '=' && at[1] == '"');
        for (at += 2; *at != '"'; at++) {
            assert_true(*at);
            if (*at == '\\' && !strchr("\\\"n", *++at)) fail_msg("an escape that there is not");
        }
        at++;
    } while (*at == ',');
    assert_int_equal(*at, '}');
    return at + 1;
}

static bool is_part(const struct family *family, const char *name, size_t length, const char *suffix)
{
    size_t base = strlen(family->name);
    return length == base + strlen(suffix) && strncmp(name, family->name, base) == 0 &&
           strncmp(name + base, suffix, strlen(suffix)) == 0;
}

/* Buckets of one set of labels are in order, and none is smaller than the one before it. */
static void expect_bucket(struct family *family, const char *labels, double value)
{
    const char *le = strstr(labels, "le=\"");
    assert_non_null(le);
    char others[256];
    snprintf(others, sizeof others, "%.*s", (int)(le - labels), labels);
    double bound = strncmp(le + 4, "+Inf", 4) == 0 ? INFINITY : strtod(le + 4, NULL);
    if (strcmp(others, family->labels) != 0 || isinf(family->bound)) {
        snprintf(family->labels, sizeof family->labels, "%s", others);
        family->bucket = 0, family->bound = -INFINITY;
    }
    assert_true(bound > family->bound && value >= family->bucket);
    family->bound = bound, family->bucket = value;
}

static void expect_sample(struct family *family, struct series *series, const char *line)
{
    size_t length = strcspn(line, "{ ");
    expect_name(line, length);
    const char *at = line + length, *labels = at;
    if (*at == '{') at = expect_labels(at);
    assert_int_equal(*at, ' ');
    char *end;
    series->value = strtod(at + 1, &end);
    if (end == at + 1 || *end) fail_msg("%s: has no value", line);
    *(char *)(uintptr_t)at = '\0';
    series->name = line;
    if (strcmp(family->type, "histogram") == 0) {
        bool bucket = is_part(family, line, length, "_bucket");
        if (bucket) expect_bucket(family, labels, series->value);
        if (is_part(family, line, length, "_count")) assert_true(series->value == family->bucket);
        if (!bucket && !is_part(family, line, length, "_sum") && !is_part(family, line, length, "_count"))
            fail_msg("%s stands among those of %s", line, family->name);
    } else if (!is_part(family, line, length, "")) {
        fail_msg("%s stands among those of %s", line, family->name);
    }
    series->counts = strcmp(family->type, "gauge") != 0;
    if (series->counts) assert_true(series->value >= 0);
    family->valued = true;
}

static void expect_type(struct family *family, const char *line)
{
    char name[128];
    assert_int_equal(sscanf(line, "# TYPE %127s %15s", name, family->type), 2);
    assert_string_equal(name, family->name);
    assert_true(family->helped && !family->valued);
    bool counter = strcmp(family->type, "counter") == 0;
    assert_true(counter || strcmp(family->type, "gauge") == 0 || strcmp(family->type, "histogram") == 0);
    size_t length = strlen(name);
    bool total = length > 6 && strcmp(name + length - 6, "_total") == 0;
    if (counter != total) fail_msg("%s: counters, and they alone, are named _total", name);
}

struct scraped *scraped_read(const char *text)
{
    static struct family families[FAMILIES];
    struct scraped *seen = calloc(1, sizeof *seen);
    struct family *family = NULL;
    size_t known = 0, room = 0, length = strlen(text);
    assert_non_null(seen);
    assert_true(length > 0 && text[length - 1] == '\n');
    assert_non_null(seen->text = strdup(text));
    for (char *line = seen->text, *next; *line; line = next) {
        next = strchr(line, '\n') + 1;
        next[-1] = '\0';
        if (strncmp(line, "# HELP ", 7) == 0) {
            assert_true(known < FAMILIES);
            family = &families[known++];
            *family = (struct family){.helped = true, .bound = INFINITY};
            assert_int_equal(sscanf(line, "# HELP %127s", family->name), 1);
            for (size_t i = 0; i + 1 < known; i++) assert_string_not_equal(families[i].name, family->name);
        } else if (strncmp(line, "# TYPE ", 7) == 0) {
            assert_non_null(family);
            expect_type(family, line);
        } else {
            if (!family || !*family->type) fail_msg("%s: has no type", line);
            if (seen->count == room) {
                room = room ? 2 * room : 256;
                assert_non_null(seen->list = realloc(seen->list, room * sizeof *seen->list));
            }
            expect_sample(family, &seen->list[seen->count++], line);
        }
    }
    for (size_t i = 0; i < seen->count; i++)
        for (size_t j = 0; j < i; j++) assert_string_not_equal(seen->list[i].name, seen->list[j].name);
    return seen;
}

struct scraped *scraped_get(const char *url)
{
    char *answer;
    int code = http_get(url, "/metrics", &answer);
    if (code != 200) fail_msg("%d: %.200s", code, answer);
    struct scraped *seen = scraped_read(http_body(answer));
    free(answer);
    return seen;
}

static const struct series *find(const struct scraped *seen, const char *name)
{
    for (size_t i = 0; i < seen->count; i++)
        if (strcmp(seen->list[i].name, name) == 0) return &seen->list[i];
    return NULL;
}

bool scraped_has(const struct scraped *seen, const char *name)
{
    return find(seen, name) != NULL;
}

double scraped_value(const struct scraped *seen, const char *name)
{
    const struct series *series = find(seen, name);
    if (!series) fail_msg("%s is not there", name);
    return series->value;
}

void scraped_expect_grown(const struct scraped *before, const struct scraped *after)
{
    for (size_t i = 0; i < before->count; i++) {
        const struct series *one = &before->list[i], *now = find(after, one->name);
        if (one->counts && (!now || now->value < one->value))
            fail_msg("%s was %g and is %g", one->name, one->value, now ? now->value : NAN);
    }
}

void scraped_free(struct scraped *seen)
{
    if (!seen) return;
    free(seen->list);
    free(seen->text);
    free(seen);
}
