/*
 * models.c - see models.h. Runs on the coordinator's loop thread; holds no locks.
 */
#include "coordinator/models.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "base/child.h"
#include "base/clock.h"
#include "base/log.h"

enum {
    MAX_MODELS = 256,
    MAX_WAITING = 32,
    OUTPUT_BYTES = 16 << 20,
    OUTPUT_STEP = 64 << 10,
    INSPECT_SECONDS = 30
};

/* One request to add a model. Inspections run one after another, in order. */
struct inspection {
    struct inspection *next;
    struct wire_peer peer;
    uint64_t request;
    char *name, *directory;
};

struct models {
    struct jobstore *store;        /* borrowed */
    const char *worker_binary;     /* borrowed */
    struct model list[MAX_MODELS]; /* [count], by name */
    size_t count;

    struct inspection *first, **end; /* first: being inspected, once child.pidfd >= 0 */
    size_t waiting;
    struct child child;
    int output; /* of the child; -1: none */
    int64_t deadline_ns;
    char *text; /* what it printed so far, terminated; [text_capacity + 1] */
    size_t text_bytes, text_capacity;
};

/* ----------------------------------------------------------------------------------------------- registry */

static void model_free(struct model *model)
{
    if (model->card) refrain__model_card__free_unpacked(model->card, NULL);
    if (model->shown) refrain__model_card__free_unpacked(model->shown, NULL);
    free(model->directory);
    *model = (struct model){0};
}

static struct model *find(const struct models *models, const char *name)
{
    for (size_t i = 0; i < models->count; i++)
        if (strcmp(models->list[i].card->name, name) == 0) return (struct model *)&models->list[i];
    return NULL;
}

/* A copy with the tables' values left out; NULL without memory. */
static Refrain__ModelCard *make_shown(const Refrain__ModelCard *card)
{
    size_t bytes = refrain__model_card__get_packed_size(card);
    uint8_t *packed = malloc(bytes ? bytes : 1);
    if (!packed) return NULL;
    refrain__model_card__pack(card, packed);
    Refrain__ModelCard *shown = refrain__model_card__unpack(NULL, bytes, packed);
    free(packed);
    for (size_t i = 0; shown && i < shown->n_tables; i++) {
        free(shown->tables[i]->values);
        shown->tables[i]->values = NULL;
        shown->tables[i]->n_values = 0;
    }
    return shown;
}

/* Takes over the card, whatever happens. */
static status_t keep(struct models *models, Refrain__ModelCard *card, const char *directory,
                     struct model **out)
{
    struct model *model = find(models, card->name);
    Refrain__ModelCard *shown = make_shown(card);
    char *copy = strdup(directory);
    if (!copy || !shown || (!model && models->count == MAX_MODELS)) {
        free(copy);
        if (shown) refrain__model_card__free_unpacked(shown, NULL);
        refrain__model_card__free_unpacked(card, NULL);
        return STATUS_NO_MEMORY;
    }
    if (model)
        model_free(model);
    else
        model = &models->list[models->count++];
    *model = (struct model){card, shown, copy};
    if (out) *out = model;
    return STATUS_OK;
}

static status_t keep_stored(void *context, Refrain__ModelCard *card, const char *directory)
{
    return keep(context, card, directory, NULL);
}

static void forget_models(struct models *models)
{
    for (size_t i = 0; i < models->count; i++) model_free(&models->list[i]);
    models->count = 0;
}

status_t models_reload(struct models *models, struct error *error)
{
    forget_models(models);
    status_t status = jobstore_models(models->store, keep_stored, models, error);
    if (status == STATUS_NO_MEMORY) error_set(error, status, "no memory for the list of models");
    return status;
}

const struct model *models_at(const struct models *models, size_t index)
{
    return index < models->count ? &models->list[index] : NULL;
}

/* "a, b, c" as far as it fits. */
static const char *list_names(const struct models *models, char *text, size_t bytes)
{
    size_t used = 0;
    text[0] = '\0';
    for (size_t i = 0; i < models->count && used < bytes; i++)
        used +=
            (size_t)snprintf(text + used, bytes - used, "%s%s", i ? ", " : "", models->list[i].card->name);
    return text;
}

/* The sentence lists what there is, so that a typing error is seen at once. */
status_t models_find(const struct models *models, const char *name, const struct model **model,
                     struct error *error)
{
    char names[256];
    bool named = name && *name;
    if (models->count == 0)
        return error_set(error, STATUS_NOT_FOUND,
                         "model %s: there is none yet; add one with `refrain models add NAME DIR`",
                         named ? name : "");
    if (!named && models->count > 1)
        return error_set(error, STATUS_INVALID, "model: must be named, one of %s",
                         list_names(models, names, sizeof names));
    const struct model *found = named ? find(models, name) : &models->list[0];
    if (!found)
        return error_set(error, STATUS_NOT_FOUND, "model %s: there is no such model, only %s", name,
                         list_names(models, names, sizeof names));
    *model = found;
    return STATUS_OK;
}

/* Jobs that were done with it keep their results; their stored specs still name it. */
status_t models_remove(struct models *models, const char *name, struct error *error)
{
    const struct model *model;
    status_t status = models_find(models, name, &model, error);
    if (status == STATUS_OK) status = jobstore_drop_model(models->store, name, error);
    if (status != STATUS_OK) return status;
    size_t index = (size_t)(model - models->list);
    model_free(&models->list[index]);
    models->count--;
    memmove(&models->list[index], &models->list[index + 1], (models->count - index) * sizeof *models->list);
    return STATUS_OK;
}

/* -------------------------------------------------------------------------------------------- inspections */

status_t models_open(struct jobstore *store, const char *worker_binary, struct models **models,
                     struct error *error)
{
    struct models *made = calloc(1, sizeof *made);
    if (!made) return error_set(error, STATUS_NO_MEMORY, "no memory for the list of models");
    made->store = store;
    made->worker_binary = worker_binary;
    made->end = &made->first;
    made->child.pidfd = made->output = -1;
    status_t status = models_reload(made, error);
    if (status != STATUS_OK) {
        models_close(made);
        return status;
    }
    *models = made;
    return STATUS_OK;
}

/* The answered one leaves the queue; the next starts at the following turn. */
static void drop_first(struct models *models)
{
    struct inspection *first = models->first;
    models->first = first->next;
    if (!models->first) models->end = &models->first;
    models->waiting--;
    free(first->name);
    free(first->directory);
    free(first);
}

static int end_child(struct models *models)
{
    if (models->output >= 0) close(models->output);
    models->output = -1;
    return models->child.pidfd >= 0 ? child_reap(&models->child) : -1;
}

void models_close(struct models *models)
{
    if (!models) return;
    if (models->child.pidfd >= 0) kill(models->child.pid, SIGKILL);
    end_child(models);
    while (models->first) drop_first(models);
    forget_models(models);
    free(models->text);
    free(models);
}

/* Only queues: the inspection itself is started by the loop, through models_inspected. */
status_t models_add(struct models *models, const struct wire_peer *peer, uint64_t request, const char *name,
                    const char *directory, struct error *error)
{
    const struct model *known = find(models, name);
    if (known && strcmp(known->directory, directory) != 0)
        return error_set(error, STATUS_CONFLICT,
                         "name %s: is the model in %s; remove it first or use another name", name,
                         known->directory);
    if (models->waiting >= MAX_WAITING)
        return error_set(error, STATUS_NO_MEMORY, "%d models are being looked at; try again later",
                         MAX_WAITING);
    if (!known && models->count >= MAX_MODELS)
        return error_set(error, STATUS_NO_MEMORY, "there are %d models, no more can be added", MAX_MODELS);
    struct inspection *made = calloc(1, sizeof *made);
    if (made) {
        made->peer = *peer;
        made->request = request;
        made->name = strdup(name);
        made->directory = strdup(directory);
    }
    if (!made || !made->name || !made->directory) {
        if (made) free(made->name), free(made->directory);
        free(made);
        return error_set(error, STATUS_NO_MEMORY, "no memory to add a model");
    }
    *models->end = made;
    models->end = &made->next;
    models->waiting++;
    return STATUS_OK;
}

/* Tied: an inspection that outlives the coordinator would be of use to nobody. */
static status_t start_child(struct models *models, int64_t now_ns, struct error *error)
{
    const char *argv[] = {models->worker_binary, "--inspect", models->first->directory, NULL};
    models->text_bytes = 0;
    models->deadline_ns = now_ns + INSPECT_SECONDS * SECOND_NS;
    return child_start(argv, &(struct child_options){.output = &models->output, .last_signal = SIGTERM},
                       &models->child, error);
}

/* Room for what comes next: most cards are small, one with calibration tables may be megabytes. */
static size_t output_room(struct models *models)
{
    if (models->text_bytes == models->text_capacity && models->text_capacity < OUTPUT_BYTES) {
        size_t capacity = models->text_capacity ? 2 * models->text_capacity : OUTPUT_STEP;
        char *text = realloc(models->text, capacity + 1);
        if (text) models->text = text, models->text_capacity = capacity;
    }
    return models->text_capacity - models->text_bytes;
}

/* Takes what the child printed; anything beyond OUTPUT_BYTES is dropped. */
static void drain(struct models *models)
{
    char spill[4096];
    while (models->output >= 0) {
        size_t room = output_room(models);
        ssize_t length = read(models->output, room ? models->text + models->text_bytes : spill,
                              room ? room : sizeof spill);
        if (length == 0)
            close(models->output), models->output = -1; /* an ended pipe would stay readable for ever */
        if (length <= 0) break;
        if (room) models->text_bytes += (size_t)length;
    }
    if (models->text) models->text[models->text_bytes] = '\0';
}

/* The last line that says something: what the person is to read. A program may have warned before it gave up.
 */
static const char *last_line(char *text)
{
    size_t length = strlen(text);
    while (length > 0 && (text[length - 1] == '\n' || text[length - 1] == ' ')) text[--length] = '\0';
    char *newline = strrchr(text, '\n');
    return newline ? newline + 1 : text;
}

/* The child ended by itself: its output is a card or a sentence. */
static status_t read_verdict(struct models *models, int code, const struct model **model, struct error *error)
{
    Refrain__ModelCard *card;
    struct model *kept;
    if (!models->text) return error_set(error, STATUS_NO_MEMORY, "no memory for the model's card");
    if (code != 0) {
        const char *line = last_line(models->text);
        if (*line) return error_set(error, STATUS_INVALID, "%s", line);
        return error_set(error, STATUS_INTERNAL, "%s: ended with code %d and said nothing",
                         models->worker_binary, code);
    }
    /* A library may have chattered before the object. */
    const char *object = memchr(models->text, '{', models->text_bytes);
    if (!object) object = models->text;
    status_t status =
        card_from_json(object, models->text_bytes - (size_t)(object - models->text), &card, error);
    if (status != STATUS_OK) return status;
    free(card->name);
    if (!(card->name = strdup(models->first->name))) status = STATUS_NO_MEMORY;
    if (status == STATUS_OK)
        status = jobstore_put_model(models->store, card, models->first->directory, error);
    if (status != STATUS_OK) {
        refrain__model_card__free_unpacked(card, NULL);
        return status;
    }
    if ((status = keep(models, card, models->first->directory, &kept)) != STATUS_OK)
        return error_set(error, status, "no memory for the model's card");
    *model = kept;
    return STATUS_OK;
}

static bool child_ended(const struct models *models)
{
    zmq_pollitem_t item = {.fd = models->child.pidfd, .events = ZMQ_POLLIN};
    return zmq_poll(&item, 1, 0) > 0;
}

/* Starts what waits, reads what was printed, and hands out the first that is finished; called once per
 * turn until false. */
bool models_inspected(struct models *models, int64_t now_ns, struct inspected *inspected)
{
    if (!models->first) return false;
    status_t status = STATUS_OK;
    inspected->model = NULL;
    inspected->error.status = STATUS_OK;
    if (models->child.pidfd < 0) status = start_child(models, now_ns, &inspected->error);
    if (status == STATUS_OK) {
        drain(models);
        bool late = now_ns >= models->deadline_ns;
        if (!late && !child_ended(models)) return false;
        if (late)
            kill(models->child.pid, SIGKILL);
        else
            drain(models); /* what it printed last */
        int code = end_child(models);
        if (late)
            status = error_set(&inspected->error, STATUS_DEADLINE, "%s: could not be read within %d s",
                               models->first->directory, INSPECT_SECONDS);
        else
            status = read_verdict(models, code, &inspected->model, &inspected->error);
    }
    if (status == STATUS_OK)
        log_line(LOG_INFO, "model %s: added from %s", models->first->name, models->first->directory);
    else
        log_line(LOG_WARN, "model %s: not added: %s", models->first->name, inspected->error.text);
    inspected->peer = models->first->peer;
    inspected->request = models->first->request;
    drop_first(models);
    return true;
}

int models_poll(const struct models *models, zmq_pollitem_t items[MODELS_POLL_ITEMS])
{
    if (models->child.pidfd < 0) return 0;
    items[0] = (zmq_pollitem_t){.fd = models->child.pidfd, .events = ZMQ_POLLIN};
    items[1] = (zmq_pollitem_t){.fd = models->output, .events = ZMQ_POLLIN};
    return models->output < 0 ? 1 : 2;
}

int64_t models_deadline_ns(const struct models *models)
{
    if (!models->first) return CLOCK_NEVER;
    return models->child.pidfd < 0 ? 0 : models->deadline_ns; /* 0: start the next one now */
}
