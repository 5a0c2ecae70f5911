/* fault.c - calls and work that are told to fail.
 *
 *     REFRAIN_FAKEGPU_FAIL=cudaMalloc:3,1/kernel:40=719,copy:2=hang
 *
 * The third cudaMalloc returns its usual error; in rank 1, the 40th kernel that runs faults with error 719;
 * the second copy never ends. Counts start at 1 and are of this process. A count followed by +
 * (cudaMalloc:3+) means from then on. */
#include "tests/fakegpu/fakegpu.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FAULTS_MAX = 32 };

struct fault {
    char name[48];
    long at, calls;
    bool onwards;
    int error; /* 0: the usual one */
};

static struct fault faults[FAULTS_MAX];
static int fault_count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* One entry; false when it does not parse. A fault of another rank is parsed and forgotten. */
static bool read_fault(const char *text, size_t length)
{
    struct fault *fault = &faults[fault_count];
    char entry[96], *at = entry;
    if (length >= sizeof entry) return false;
    snprintf(entry, sizeof entry, "%.*s", (int)length, text);
    char *slash = strchr(entry, '/');
    if (slash) at = slash + 1;
    *fault = (struct fault){0};
    int used = 0;
    if (sscanf(at, "%47[^:]:%ld%n", fault->name, &fault->at, &used) != 2 || fault->at < 1) return false;
    at += used;
    if (*at == '+') fault->onwards = true, at++;
    if (*at == '=') {
        fault->error = strcmp(at + 1, "hang") == 0 ? FAULT_HANG : atoi(at + 1);
        if (!fault->error) return false;
    } else if (*at) {
        return false;
    }
    if (!slash || atoi(entry) == world()->rank) fault_count++;
    return true;
}

static void read_faults(void)
{
    const char *text = getenv("REFRAIN_FAKEGPU_FAIL");
    while (text && *text && fault_count < FAULTS_MAX) {
        size_t length = strcspn(text, ",");
        if (!read_fault(text, length)) {
            fprintf(stderr,
                    "fakegpu: REFRAIN_FAKEGPU_FAIL: \"%.*s\" is not [RANK/]NAME:COUNT[+][=ERROR|=hang]\n",
                    (int)length, text);
            abort();
        }
        text += length + (text[length] == ',');
    }
}

EXPORT int fakegpu_fault(const char *name, int usual)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_faults);
    int error = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < fault_count; i++) {
        struct fault *fault = &faults[i];
        if (strcmp(fault->name, name) != 0) continue;
        fault->calls++;
        if (fault->calls == fault->at || (fault->onwards && fault->calls > fault->at))
            error = fault->error ? fault->error : usual;
    }
    pthread_mutex_unlock(&lock);
    if (error) fprintf(stderr, "fakegpu: %s fails with %d, as REFRAIN_FAKEGPU_FAIL says\n", name, error);
    return error;
}
