/* fuzz_ticket.c - libFuzzer entry: no bytes make ticket_decode misbehave, and what it accepts encodes to the
 * same bytes.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -I. tests/fuzz_ticket.c cluster/ticket.c base/status.c
 */
#include <stdlib.h>
#include <string.h>

#include "cluster/ticket.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ticket ticket;
    struct error error;
    if (ticket_decode(data, size, &ticket, &error) != STATUS_OK) return 0;
    uint8_t wire[TICKET_BYTES];
    ticket_encode(&ticket, wire);
    if (size != TICKET_BYTES || memcmp(wire, data, size) != 0) abort();
    return 0;
}
