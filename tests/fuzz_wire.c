/*
 * fuzz_wire.c - libFuzzer over the wire decoder: any bytes are refused or become a message that can be used.
 *
 * The first byte chooses the message. The rest is the frame, or what one is made from (tests/message_maker.h). What unpacks is validated, packed again, and must
 * then be read back to the same bytes.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "proto/caching.h"
#include "proto/validate.h"
#include "tests/message_maker.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A message that was believed survives a round trip. */
static void check_round_trip(const ProtobufCMessage *message)
{
    size_t bytes = protobuf_c_message_get_packed_size(message);
    uint8_t *first = malloc(bytes + 1), *second = malloc(bytes + 1);
    if (!first || !second) abort();
    if (protobuf_c_message_pack(message, first) != bytes) abort();
    ProtobufCMessage *again = protobuf_c_message_unpack(message->descriptor, NULL, bytes, first);
    if (!again || protobuf_c_message_get_packed_size(again) != bytes) abort();
    protobuf_c_message_pack(again, second);
    if (memcmp(first, second, bytes) != 0) abort();
    protobuf_c_message_free_unpacked(again, NULL);
    free(first);
    free(second);
}

static void check_request(const uint8_t *data, size_t size)
{
    Refrain__Request *request;
    struct error error;
    uint64_t id;
    if (wire_unpack_request(data, size, &request, &id, &error) != STATUS_OK) return;
    const char *field;
    if (validate_request(request, &field, &error) == STATUS_OK &&
        request->body_case == REFRAIN__REQUEST__BODY_SUBMIT) {
        /* A spec that was accepted can be completed, whatever the model allows. */
        Refrain__ModelCard card = REFRAIN__MODEL_CARD__INIT;
        card.name = (char *)"small";
        card.size_multiple = card.default_width = card.default_height = 16;
        card.frame_multiple = 4;
        card.default_frames = card.vae_scale = card.patch = 1;
        card.max_position = 64;
        card.layers = 8;
        card.heads = 3;
        card.head_dim = 40;
        card.latent_channels = 16;
        card.shift = 3;
        card.solver = REFRAIN__SOLVER__SOLVER_UNIPC;
        Refrain__JobSpec *spec = request->submit->spec;
        if (validate_fill(spec, &card, &error) != STATUS_OK) abort();
        if (validate_spec_for_model(spec, &card, &field, &error) == STATUS_OK)
            caching_check_bytes(spec, &card, UINT64_C(1) << 33, &field, &error);
    }
    check_round_trip(&request->base);
    refrain__request__free_unpacked(request, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ProtobufCMessageDescriptor *const descriptors[] = {
        &refrain__request__descriptor,       &refrain__reply__descriptor,
        &refrain__worker_report__descriptor, &refrain__worker_order__descriptor,
        &refrain__vault_request__descriptor, &refrain__vault_reply__descriptor};
    static uint8_t made[MESSAGE_FRAME_BYTES];
    struct error error;
    ProtobufCMessage *message = NULL;
    status_t status = STATUS_CORRUPT;
    if (size-- == 0) return 0;
    int kind = *data % 6;
    bool makes = *data++ & 128;
    if (makes) {
        struct message_source source = {data, data + size};
        size = message_make(&source, descriptors[kind], made);
        data = made;
    }
    switch (kind) {
    case 0:
        check_request(data, size);
        return 0;
    case 1:
        status = wire_unpack_reply(data, size, (Refrain__Reply **)&message, &error);
        break;
    case 2:
        status = wire_unpack_report(data, size, (Refrain__WorkerReport **)&message, &error);
        break;
    case 3:
        status = wire_unpack_order(data, size, (Refrain__WorkerOrder **)&message, &error);
        break;
    case 4:
        status = wire_unpack_vault_request(data, size, (Refrain__VaultRequest **)&message, &error);
        break;
    case 5:
        status = wire_unpack_vault_reply(data, size, (Refrain__VaultReply **)&message, &error);
        break;
    }
    if (status != STATUS_OK) return 0;
    check_round_trip(message);
    protobuf_c_message_free_unpacked(message, NULL);
    return 0;
}
