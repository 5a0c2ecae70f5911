/* envelope.c - see envelope.h. Stateless; any thread. */
#include "cluster/envelope.h"

#include <string.h>

#include "cluster/wire.h"

/*      0 magic "RFFB"   4 version u8   5 kind u8   6 reserved u16   8 from u32   12 number u32   16 epoch u64
 * 24 place u64 */

static const uint8_t MAGIC[4] = {'R', 'F', 'F', 'B'};

void envelope_encode(const struct envelope *envelope, uint8_t wire[ENVELOPE_BYTES])
{
    memcpy(wire, MAGIC, sizeof MAGIC);
    wire[4] = ENVELOPE_VERSION;
    wire[5] = envelope->kind;
    wire_put16(wire + 6, 0);
    wire_put32(wire + 8, envelope->from);
    wire_put32(wire + 12, envelope->number);
    wire_put64(wire + 16, envelope->epoch);
    wire_put64(wire + 24, envelope->place);
}

bool envelope_decode(const uint8_t *wire, size_t length, struct envelope *envelope)
{
    if (length < ENVELOPE_BYTES || memcmp(wire, MAGIC, sizeof MAGIC) != 0) return false;
    if (wire[4] != ENVELOPE_VERSION || wire_get16(wire + 6) != 0) return false;
    if (wire[5] < ENVELOPE_HELLO || wire[5] > ENVELOPE_YIELDS) return false;
    *envelope = (struct envelope){
        .kind = wire[5],
        .from = wire_get32(wire + 8),
        .number = wire_get32(wire + 12),
        .epoch = wire_get64(wire + 16),
        .place = wire_get64(wire + 24),
    };
    return true;
}
