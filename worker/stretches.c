/* stretches.c - see stretches.h. Compute thread. */
#include "worker/stretches.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

/* Calls of any stretch after which one that was not among them may make room. */
enum { STALE = 8 * STRETCHES };

enum state { CALLED, RECORDED, REFUSED };

struct place {
    struct stretch_key key;
    enum state state;
    struct stretch *stretch; /* RECORDED */
    uint64_t used;           /* the clock's reading then; 0: the place is free */
};

struct stretches {
    const struct ops *ops;
    bool always;
    uint64_t clock; /* counts calls */
    struct place places[STRETCHES];
    struct place *recording; /* between begin and end: NULL where ops are just called */
    struct stretches_counts counts;
};

_Static_assert(sizeof(struct stretch_key) ==
                   (1 + STRETCH_TENSORS) * sizeof(void *) + sizeof(struct token_grid) + 3 * sizeof(int),
               "keys are compared byte by byte");

status_t stretches_create(const struct ops *ops, struct stretches **stretches, struct error *error)
{
    const char *wish = getenv("REFRAIN_GPU_RECORD");
    bool always = wish && strcmp(wish, "always") == 0, never = wish && strcmp(wish, "never") == 0;
    if (wish && *wish && !always && !never && strcmp(wish, "auto") != 0)
        return error_set(error, STATUS_INVALID, "REFRAIN_GPU_RECORD=%s: must be auto, always or never", wish);
    *stretches = NULL;
    if (never || !ops->record) return STATUS_OK;
    struct stretches *s = calloc(1, sizeof *s);
    if (!s) return error_set(error, STATUS_NO_MEMORY, "no memory for recorded ops");
    s->ops = ops;
    s->always = always;
    *stretches = s;
    return STATUS_OK;
}

void stretches_destroy(struct stretches *s)
{
    stretches_forget(s, NULL);
    free(s);
}

static void vacate(struct stretches *s, struct place *p)
{
    s->counts.held -= p->state == RECORDED;
    s->ops->forget(p->stretch);
    *p = (struct place){0};
}

void stretches_forget(struct stretches *s, const void *owner)
{
    if (!s) return;
    for (int i = 0; i < STRETCHES; i++)
        if (s->places[i].used && (!owner || s->places[i].key.owner == owner)) vacate(s, &s->places[i]);
}

static struct place *find(struct stretches *s, const struct stretch_key *key)
{
    for (int i = 0; i < STRETCHES; i++)
        if (s->places[i].used && memcmp(&s->places[i].key, key, sizeof *key) == 0) return &s->places[i];
    return NULL;
}

/* A place for a new one; NULL: all are in use. */
static struct place *make_room(struct stretches *s, struct team *team)
{
    struct place *oldest = s->places;
    for (int i = 1; i < STRETCHES; i++)
        if (s->places[i].used < oldest->used) oldest = &s->places[i];
    if (oldest->used == 0) return oldest;
    if (s->clock - oldest->used < STALE) return NULL;
    if (oldest->state == RECORDED)
        s->ops->wait(team, NULL); /* it may run; a failure is told by every later wait */
    vacate(s, oldest);
    return oldest;
}

static void refuse(struct stretches *s, struct place *p, const struct error *why)
{
    if (s->counts.refused++ == 0) log_line(LOG_WARN, "ops are called one by one: %s", why->text);
    p->state = REFUSED;
}

bool stretches_begin(struct stretches *s, struct team *team, const struct stretch_key *key, bool worth)
{
    struct error error;
    if (!s) return true;
    struct place *p = find(s, key);
    s->clock++;
    if (!p) {
        if ((worth || s->always) && (p = make_room(s, team)) != NULL)
            *p = (struct place){.key = *key, .state = CALLED, .used = s->clock};
        return true;
    }
    p->used = s->clock;
    if (p->state == RECORDED) {
        s->ops->replay(team, p->stretch);
        s->counts.replayed++;
        return false;
    }
    if (p->state == REFUSED || !(worth || s->always)) return true;
    if (s->ops->record(team, &error) == STATUS_OK)
        s->recording = p;
    else
        refuse(s, p, &error);
    return true;
}

bool stretches_end(struct stretches *s, struct team *team)
{
    struct error error;
    struct place *p = s ? s->recording : NULL;
    if (!p) return false;
    s->recording = NULL;
    if (s->ops->recorded(team, &p->stretch, &error) != STATUS_OK) {
        refuse(s, p, &error);
        return true;
    }
    p->state = RECORDED;
    s->counts.held++;
    s->counts.recorded++;
    s->ops->replay(team, p->stretch);
    s->counts.replayed++;
    return false;
}

struct stretches_counts stretches_counts(const struct stretches *s)
{
    return s ? s->counts : (struct stretches_counts){0};
}
