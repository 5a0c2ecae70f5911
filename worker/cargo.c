/* cargo.c - see cargo.h. */
#include "worker/cargo.h"

#include <string.h>

void cargo_lay_out(struct cargo *c, const struct ops *ops, struct arena *device, struct arena *shared,
                   size_t bytes)
{
    c->device = arena_take(device, bytes, 1);
    c->host = ops->local ? c->device : arena_take(shared, bytes, 1);
}

status_t cargo_send(struct cargo *c, struct engine *e, int peer, size_t begin, size_t tail,
                    const void **payload, struct error *error)
{
    const struct ops *ops = e->ops;
    bool direct = engine_direct(e, peer);
    *payload = (direct ? c->device : c->host) + begin;
    if (ops->local) return STATUS_OK;
    if (direct) {
        if (tail && !c->constant) ops->copy(e->team, c->device + c->body, c->host + c->body, tail);
        return STATUS_OK;
    }
    if (c->brought) return STATUS_OK; /* the fabric may be reading it */
    ops->copy(e->team, c->host + begin, c->device + begin, c->body - begin);
    status_t status = engine_wait(e, error);
    c->brought = c->constant && status == STATUS_OK;
    return status;
}

status_t cargo_receive(struct cargo *c, struct engine *e, int peer, size_t begin, const void *payload,
                       size_t tail, struct error *error)
{
    const struct ops *ops = e->ops;
    size_t bytes = c->body - begin + tail;
    if (engine_direct(e, peer)) {
        ops->copy(e->team, c->device + begin, payload, bytes);
        if (ops->local || !tail) return STATUS_OK;
        ops->copy(e->team, c->host + c->body, c->device + c->body, tail);
        return engine_wait(e, error);
    }
    status_t status = c->read_at == e->waits + 1 ? engine_wait(e, error) : STATUS_OK;
    if (status != STATUS_OK) return status;
    if (!ops->paper) memcpy(c->host + begin, payload, bytes);
    ops->copy(e->team, c->device + begin, c->host + begin, c->body - begin);
    c->read_at = e->waits + 1;
    return STATUS_OK;
}

status_t cargo_receive_part(struct cargo *c, struct engine *e, int peer, size_t begin, const void *payload,
                            size_t bytes, struct error *error)
{
    struct cargo part = *c; /* the same memory, up to there */
    part.body = begin + bytes;
    status_t status = cargo_receive(&part, e, peer, begin, payload, 0, error);
    c->read_at = part.read_at;
    return status;
}

status_t cargo_read(struct engine *e, int peer, const void *from, void *to, size_t bytes, struct error *error)
{
    if (e->ops->local || !engine_direct(e, peer)) {
        memcpy(to, from, bytes);
        return STATUS_OK;
    }
    e->ops->copy(e->team, to, from, bytes);
    return engine_wait(e, error);
}
