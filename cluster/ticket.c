/*
 * ticket.c - the ticket's bytes; see ticket.h. Stateless; any thread.
 *
 * The layout, little-endian, offsets in bytes. Reserved bytes are written 0 and must be read 0, so that a
 * later version can use them without an old receiver misreading a new ticket.
 *
 *       0 magic "RFTK"        4 version u16         6 kind u16            8 dtype u16
 *      10 branch u16         12 expert u16         14 reserved u16
 *      16 epoch u64          24 job u64            32 context u64        40 sequence u64
 *      48 attempt u32        52 step u32           56 timestep f32       60 flags u32
 *      64 grid 3 x u32       76 row_begin u32      80 row_count u32      84 reserved u32
 *      88 bytes u64          96 trace u64         104 block_begin u32   108 block_end u32
 *     112 text_bytes u32    116 home u16          118 priority u16      120 age u64
 */
#include "cluster/ticket.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "cluster/wire.h"

static const uint8_t MAGIC[4] = {'R', 'F', 'T', 'K'};

enum { RESERVED_A = 14, RESERVED_B = 84 };

void ticket_encode(const struct ticket *ticket, uint8_t wire[TICKET_BYTES])
{
    memset(wire, 0, TICKET_BYTES);
    memcpy(wire, MAGIC, sizeof MAGIC);
    wire_put16(wire + 4, TICKET_VERSION);
    wire_put16(wire + 6, ticket->kind);
    wire_put16(wire + 8, ticket->dtype);
    wire_put16(wire + 10, ticket->branch);
    wire_put16(wire + 12, ticket->expert);
    wire_put64(wire + 16, ticket->epoch);
    wire_put64(wire + 24, ticket->job);
    wire_put64(wire + 32, ticket->context);
    wire_put64(wire + 40, ticket->sequence);
    wire_put32(wire + 48, ticket->attempt);
    wire_put32(wire + 52, ticket->step);
    wire_put_float(wire + 56, ticket->timestep);
    wire_put32(wire + 60, ticket->flags);
    for (int i = 0; i < 3; i++) wire_put32(wire + 64 + 4 * i, ticket->grid[i]);
    wire_put32(wire + 76, ticket->row_begin);
    wire_put32(wire + 80, ticket->row_count);
    wire_put64(wire + 88, ticket->bytes);
    wire_put64(wire + 96, ticket->trace);
    wire_put32(wire + 104, ticket->block_begin);
    wire_put32(wire + 108, ticket->block_end);
    wire_put32(wire + 112, ticket->text_bytes);
    wire_put16(wire + 116, ticket->home);
    wire_put16(wire + 118, ticket->priority);
    wire_put64(wire + 120, ticket->age);
}

/* Everything before the values: is this a ticket, and one of ours? */
static status_t check_frame(const uint8_t *wire, size_t length, struct error *error)
{
    if (length != TICKET_BYTES)
        return error_set(error, STATUS_CORRUPT, "ticket of %zu bytes, expected %d", length, TICKET_BYTES);
    if (memcmp(wire, MAGIC, sizeof MAGIC) != 0)
        return error_set(error, STATUS_CORRUPT, "ticket does not begin with RFTK");
    unsigned version = wire_get16(wire + 4);
    if (version != TICKET_VERSION)
        return error_set(error, STATUS_UNSUPPORTED, "ticket of version %u, this build speaks %d", version,
                         TICKET_VERSION);
    uint8_t reserved = wire[RESERVED_A] | wire[RESERVED_A + 1];
    for (int i = 0; i < 4; i++) reserved |= wire[RESERVED_B + i];
    if (reserved) return error_set(error, STATUS_CORRUPT, "ticket with reserved bytes in use");
    return STATUS_OK;
}

/* What no receiver could make sense of, whatever the model is. */
static status_t check_values(const struct ticket *ticket, struct error *error)
{
    bool work = ticket->kind >= TICKET_OPEN && ticket->kind <= TICKET_TURN;
    bool item = ticket->kind >= TICKET_FETCH && ticket->kind <= TICKET_STOP;
    bool probe = ticket->kind == TICKET_PROBE || ticket->kind == TICKET_PROBED;
    if (!work && !item && !probe)
        return error_set(error, STATUS_CORRUPT, "ticket of unknown kind %u", ticket->kind);
    if (ticket->dtype > TICKET_RAW)
        return error_set(error, STATUS_CORRUPT, "ticket of unknown dtype %u", ticket->dtype);
    if (ticket->dtype == TICKET_NO_DATA && ticket->bytes > 0)
        return error_set(error, STATUS_CORRUPT, "ticket announces %" PRIu64 " bytes of no type",
                         ticket->bytes);
    if (ticket->flags & ~(uint32_t)(TICKET_BLOCK_RECORDS | TICKET_DONE | TICKET_ON_DEVICE | TICKET_YIELDS))
        return error_set(error, STATUS_CORRUPT, "ticket with unknown flags %#x", ticket->flags);
    if ((ticket->flags & TICKET_ON_DEVICE) && ticket->bytes == 0)
        return error_set(error, STATUS_CORRUPT, "ticket with a payload of 0 bytes in device memory");
    if ((ticket->flags & TICKET_ON_DEVICE) && (ticket->flags & TICKET_YIELDS))
        return error_set(error, STATUS_CORRUPT, "ticket with a payload in device memory that is to yield");
    if (ticket->text_bytes > ticket->bytes)
        return error_set(error, STATUS_CORRUPT, "ticket with a text of %u bytes in a payload of %" PRIu64,
                         ticket->text_bytes, ticket->bytes);
    if (!isfinite(ticket->timestep))
        return error_set(error, STATUS_CORRUPT, "ticket with a timestep that is not a number");
    if (ticket->row_count > UINT32_MAX - ticket->row_begin)
        return error_set(error, STATUS_CORRUPT, "ticket with rows %u + %u beyond 32 bits", ticket->row_begin,
                         ticket->row_count);
    return STATUS_OK;
}

status_t ticket_decode(const uint8_t *wire, size_t length, struct ticket *ticket, struct error *error)
{
    status_t status = check_frame(wire, length, error);
    if (status != STATUS_OK) return status;
    struct ticket read = {
        .kind = wire_get16(wire + 6),
        .dtype = wire_get16(wire + 8),
        .branch = wire_get16(wire + 10),
        .expert = wire_get16(wire + 12),
        .epoch = wire_get64(wire + 16),
        .job = wire_get64(wire + 24),
        .context = wire_get64(wire + 32),
        .sequence = wire_get64(wire + 40),
        .attempt = wire_get32(wire + 48),
        .step = wire_get32(wire + 52),
        .timestep = wire_get_float(wire + 56),
        .flags = wire_get32(wire + 60),
        .grid = {wire_get32(wire + 64), wire_get32(wire + 68), wire_get32(wire + 72)},
        .row_begin = wire_get32(wire + 76),
        .row_count = wire_get32(wire + 80),
        .bytes = wire_get64(wire + 88),
        .trace = wire_get64(wire + 96),
        .block_begin = wire_get32(wire + 104),
        .block_end = wire_get32(wire + 108),
        .text_bytes = wire_get32(wire + 112),
        .home = wire_get16(wire + 116),
        .priority = wire_get16(wire + 118),
        .age = wire_get64(wire + 120),
    };
    status = check_values(&read, error);
    if (status != STATUS_OK) return status;
    *ticket = read;
    return STATUS_OK;
}
