/* upload.c - see upload.h. Compute thread of home. */
#include "worker/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

struct sending {
    const char *name;
    int descriptor;
    uint64_t bytes, xxh64;
    uint64_t sent, held; /* read and handed out; acknowledged */
};

struct upload {
    int count;
    struct sending file[UPLOAD_MAX_FILES];
    uint8_t chunk[UPLOAD_CHUNK_BYTES];
};

const char *const upload_names[UPLOAD_MAX_FILES] = {
    "video.mp4",      "sheet.png",      "latents.safetensors", "frames.safetensors",
    "comparison.mp4", "comparison.png", "trace.json"};

static status_t hash_file(struct upload *u, struct sending *f, const char *path, struct error *error)
{
    XXH64_state_t *state = XXH64_createState();
    if (!state) return error_set(error, STATUS_NO_MEMORY, "%s: no memory to hash it", path);
    XXH64_reset(state, 0);
    ssize_t got;
    while ((got = read(f->descriptor, u->chunk, sizeof u->chunk)) > 0) {
        XXH64_update(state, u->chunk, (size_t)got);
        f->bytes += (uint64_t)got;
    }
    f->xxh64 = XXH64_digest(state);
    XXH64_freeState(state);
    return got < 0 ? error_set(error, STATUS_IO, "%s: cannot be read: %m", path) : STATUS_OK;
}

status_t upload_create(const char *directory, struct upload **upload, struct error *error)
{
    struct upload *u = calloc(1, sizeof *u);
    if (!u) return error_set(error, STATUS_NO_MEMORY, "no memory for an upload");
    status_t status = STATUS_OK;
    for (int i = 0; i < UPLOAD_MAX_FILES && status == STATUS_OK; i++) {
        char path[4200];
        snprintf(path, sizeof path, "%s/%s", directory, upload_names[i]);
        int descriptor = open(path, O_RDONLY | O_CLOEXEC);
        if (descriptor < 0 && errno == ENOENT) continue;
        if (descriptor < 0) {
            status = error_set(error, STATUS_IO, "%s: cannot be opened: %m", path);
            break;
        }
        struct sending *f = &u->file[u->count++];
        f->name = upload_names[i];
        f->descriptor = descriptor;
        status = hash_file(u, f, path, error);
    }
    if (status != STATUS_OK) {
        upload_destroy(u);
        return status;
    }
    *upload = u;
    return STATUS_OK;
}

void upload_destroy(struct upload *u)
{
    if (!u) return;
    for (int i = 0; i < u->count; i++) close(u->file[i].descriptor);
    free(u);
}

status_t upload_next(struct upload *u, struct upload_chunk *chunk, struct error *error)
{
    for (int i = 0; i < u->count; i++) {
        struct sending *f = &u->file[i];
        if (f->held == f->bytes && f->bytes) continue;
        if (f->sent == f->bytes || f->sent - f->held >= UPLOAD_WINDOW_BYTES) return STATUS_AGAIN;
        uint64_t left = f->bytes - f->sent;
        size_t want = left < sizeof u->chunk ? (size_t)left : sizeof u->chunk;
        ssize_t got = pread(f->descriptor, u->chunk, want, (off_t)f->sent);
        if (got != (ssize_t)want)
            return error_set(error, STATUS_IO, "%s: changed while it was being sent", f->name);
        *chunk = (struct upload_chunk){f->name, f->sent, f->bytes, u->chunk, (uint32_t)want, f->xxh64};
        f->sent += want;
        return STATUS_OK;
    }
    return STATUS_AGAIN;
}

/* The coordinator's word is final: behind what we thought means send again from there, ahead means skip. */
void upload_ack(struct upload *u, const char *file, uint64_t received)
{
    for (int i = 0; i < u->count; i++) {
        struct sending *f = &u->file[i];
        if (strcmp(f->name, file) != 0 || received > f->bytes) continue;
        if (received < f->held || received > f->sent) f->sent = received;
        f->held = received;
    }
}

void upload_restart(struct upload *u)
{
    for (int i = 0; i < u->count; i++) u->file[i].sent = u->file[i].held = 0;
}

bool upload_complete(const struct upload *u)
{
    for (int i = 0; i < u->count; i++)
        if (u->file[i].held != u->file[i].bytes) return false;
    return true;
}

int upload_files(const struct upload *u, struct upload_file files[UPLOAD_MAX_FILES])
{
    for (int i = 0; i < u->count; i++)
        files[i] = (struct upload_file){u->file[i].name, u->file[i].bytes, u->file[i].xxh64};
    return u->count;
}
