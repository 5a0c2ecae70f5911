/*
 * card.c - see card.h.
 *
 * The message's own descriptor says which fields there are and of which type, so a field added to
 * refrain.proto needs nothing here. Keys the message does not have are skipped: a newer worker may say more.
 */
#include <jansson.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "coordinator/card.h"
#include "proto/validate.h"

static status_t wrong_type(const char *name, const char *wanted, struct error *error)
{
    return error_set(error, STATUS_CORRUPT, "model card: %s is not %s", name, wanted);
}

/* uint32 or uint64. Signs and numbers that would wrap are refused here, so that validate_card sees what
 * was printed. */
static status_t set_whole(const ProtobufCFieldDescriptor *field, json_t *value, void *at, struct error *error)
{
    json_int_t number = json_integer_value(value);
    bool wide = field->type == PROTOBUF_C_TYPE_UINT64;
    if (!json_is_integer(value) || number < 0 || (!wide && number > UINT32_MAX))
        return wrong_type(field->name, "a whole number that fits", error);
    if (wide)
        *(uint64_t *)at = (uint64_t)number;
    else
        *(uint32_t *)at = (uint32_t)number;
    return STATUS_OK;
}

/* "SOLVER_UNIPC", "unipc" or the number. */
static status_t set_enum(const ProtobufCFieldDescriptor *field, json_t *value, void *at, struct error *error)
{
    const ProtobufCEnumDescriptor *descriptor = field->descriptor;
    const char *text = json_string_value(value);
    for (unsigned i = 0; i < descriptor->n_values; i++) {
        const char *full = descriptor->values[i].name, *last = strrchr(full, '_');
        bool same = text ? strcmp(text, full) == 0 || (last && strcasecmp(text, last + 1) == 0)
                         : json_is_integer(value) && json_integer_value(value) == descriptor->values[i].value;
        if (!same) continue;
        *(int *)at = descriptor->values[i].value;
        return STATUS_OK;
    }
    return wrong_type(field->name, descriptor->short_name, error);
}

static status_t no_memory(struct error *error)
{
    return error_set(error, STATUS_NO_MEMORY, "no memory for a model card");
}

/* A list of numbers into a repeated double. */
static status_t set_doubles(const ProtobufCFieldDescriptor *field, json_t *value, double **at, size_t *count,
                            struct error *error)
{
    size_t length = json_array_size(value);
    if (!json_is_array(value)) return wrong_type(field->name, "a list of numbers", error);
    if (length == 0) return STATUS_OK;
    double *numbers = malloc(length * sizeof *numbers);
    if (!numbers) return no_memory(error);
    for (size_t i = 0; i < length; i++) {
        json_t *item = json_array_get(value, i);
        if (!json_is_number(item)) {
            free(numbers);
            return wrong_type(field->name, "a list of numbers", error);
        }
        numbers[i] = json_number_value(item);
    }
    *at = numbers;
    *count = length;
    return STATUS_OK;
}

static status_t set_fields(ProtobufCMessage *message, json_t *object, struct error *error);

/* A list of objects into a repeated message. What was made before a failure belongs to the message already.
 */
static status_t set_messages(const ProtobufCFieldDescriptor *field, json_t *value, ProtobufCMessage ***at,
                             size_t *count, struct error *error)
{
    const ProtobufCMessageDescriptor *descriptor = field->descriptor;
    size_t length = json_array_size(value);
    if (!json_is_array(value)) return wrong_type(field->name, "a list of objects", error);
    if (length == 0) return STATUS_OK;
    if (!(*at = calloc(length, sizeof **at))) return no_memory(error);
    status_t status = STATUS_OK;
    for (size_t i = 0; status == STATUS_OK && i < length; i++) {
        json_t *item = json_array_get(value, i);
        if (!json_is_object(item)) return wrong_type(field->name, "a list of objects", error);
        ProtobufCMessage *made = malloc(descriptor->sizeof_message);
        if (!made) return no_memory(error);
        protobuf_c_message_init(descriptor, made);
        (*at)[(*count)++] = made;
        status = set_fields(made, item, error);
    }
    return status;
}

static status_t set_list(const ProtobufCFieldDescriptor *field, json_t *value, void *at, size_t *count,
                         struct error *error)
{
    if (field->type == PROTOBUF_C_TYPE_DOUBLE) return set_doubles(field, value, at, count, error);
    if (field->type == PROTOBUF_C_TYPE_MESSAGE) return set_messages(field, value, at, count, error);
    return STATUS_OK; /* no card has such a list */
}

/* A JSON value into the field of the message that has its name. */
static status_t set_field(ProtobufCMessage *message, const ProtobufCFieldDescriptor *field, json_t *value,
                          struct error *error)
{
    char *at = (char *)message + field->offset;
    if (field->label == PROTOBUF_C_LABEL_REPEATED)
        return set_list(field, value, at, (size_t *)((char *)message + field->quantifier_offset), error);
    protobuf_c_boolean *has = (protobuf_c_boolean *)((char *)message + field->quantifier_offset);
    status_t status = STATUS_OK;
    switch (field->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_UINT64:
        status = set_whole(field, value, at, error);
        break;
    case PROTOBUF_C_TYPE_ENUM:
        status = set_enum(field, value, at, error);
        break;
    case PROTOBUF_C_TYPE_DOUBLE:
        if (!json_is_number(value)) return wrong_type(field->name, "a number", error);
        *(double *)at = json_number_value(value);
        break;
    case PROTOBUF_C_TYPE_STRING:
        if (!json_is_string(value)) return wrong_type(field->name, "a text", error);
        if (!(*(char **)at = strdup(json_string_value(value)))) return no_memory(error);
        return STATUS_OK; /* a text has no has_ flag */
    default:
        return STATUS_OK;
    }
    if (status == STATUS_OK) *has = 1;
    return status;
}

/* Every field of the message that the object has. */
static status_t set_fields(ProtobufCMessage *message, json_t *object, struct error *error)
{
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    status_t status = STATUS_OK;
    for (unsigned i = 0; status == STATUS_OK && i < descriptor->n_fields; i++) {
        json_t *value = json_object_get(object, descriptor->fields[i].name);
        if (value && !json_is_null(value)) status = set_field(message, &descriptor->fields[i], value, error);
    }
    return status;
}

status_t card_from_json(const char *text, size_t bytes, Refrain__ModelCard **card, struct error *error)
{
    json_error_t where;
    status_t status = STATUS_OK;
    json_t *object = json_loadb(text, bytes, JSON_REJECT_DUPLICATES | JSON_DISABLE_EOF_CHECK, &where);
    Refrain__ModelCard *made = malloc(sizeof *made);
    if (made) refrain__model_card__init(made);
    if (!made)
        status = no_memory(error);
    else if (!json_is_object(object))
        status = error_set(error, STATUS_CORRUPT, "model card: is not a JSON object (%s)",
                           object ? "another value" : where.text);
    else
        status = set_fields(&made->base, object, error);
    if (status == STATUS_OK && (status = validate_card(made, error)) != STATUS_OK)
        error_prefix(error, "model card");
    json_decref(object);
    if (status == STATUS_OK)
        *card = made;
    else if (made)
        refrain__model_card__free_unpacked(made, NULL);
    return status;
}
