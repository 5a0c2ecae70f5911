/*
 * spiece.c - reads SentencePiece's ModelProto (sentencepiece, src/sentencepiece_model.proto).
 *
 * The library's own reader hides what is needed here: the normalisation table and the types of the pieces.
 * The wire format is a few lines: a field is a varint key (number << 3 | kind), then a varint, 4 or 8 bytes,
 * or a length and that many bytes. Fields that are not named below are skipped.
 */
#include "worker/model/spiece.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The largest published vocabularies have 260 000 pieces and 4 MB. */
enum { MAX_FILE_BYTES = 256 << 20, MAX_PIECES = 1 << 24 };

/* Field numbers of ModelProto, SentencePiece, TrainerSpec and NormalizerSpec. */
enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum { TRAINER_MODEL_TYPE = 3, MODEL_TYPE_UNIGRAM = 1 };
enum { NORMALIZER_CHARSMAP = 2 };

enum wire_kind { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

struct wire {
    const uint8_t *at, *end;
    bool broken; /* something did not fit: reading has stopped */
};

struct field {
    uint64_t number;
    int kind;
    uint64_t value;      /* varint, 64 or 32 bits */
    const uint8_t *data; /* WIRE_BYTES: [size] */
    size_t size;
};

/* Seven bits a byte, the least first; the top bit says that more follow. */
static uint64_t read_varint(struct wire *w)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && w->at < w->end; shift += 7) {
        uint8_t byte = *w->at++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return value;
    }
    w->broken = true;
    return 0;
}

/* [size] bytes of the message, or NULL when it has fewer. */
static const uint8_t *read_bytes(struct wire *w, uint64_t size)
{
    if (w->broken || size > (uint64_t)(w->end - w->at)) {
        w->broken = true;
        return NULL;
    }
    const uint8_t *data = w->at;
    w->at += size;
    return data;
}

/* False at the end, and when the message is broken. */
static bool next_field(struct wire *w, struct field *f)
{
    if (w->broken || w->at == w->end) return false;
    uint64_t key = read_varint(w);
    *f = (struct field){.number = key >> 3, .kind = (int)(key & 7)};
    uint32_t small;
    const uint8_t *data;
    switch (f->kind) {
    case WIRE_VARINT:
        f->value = read_varint(w);
        break;
    case WIRE_64:
        data = read_bytes(w, sizeof f->value);
        if (data != NULL) memcpy(&f->value, data, sizeof f->value);
        f->value = le64toh(f->value);
        break;
    case WIRE_32:
        data = read_bytes(w, sizeof small);
        if (data != NULL) {
            memcpy(&small, data, sizeof small);
            f->value = le32toh(small);
        }
        break;
    case WIRE_BYTES:
        f->size = read_varint(w);
        f->data = read_bytes(w, f->size);
        break;
    default:
        w->broken = true;
    }
    return !w->broken;
}

/* A field that is a message itself. */
static struct wire wire_of(const struct field *f)
{
    return (struct wire){f->data, f->data + f->size, false};
}

/* The piece's text points into the file. A field that is absent has its default. */
static bool read_piece(const struct field *message, struct spiece_piece *piece)
{
    struct wire w = wire_of(message);
    struct field f;
    *piece = (struct spiece_piece){.text = "", .type = SPIECE_NORMAL};
    while (next_field(&w, &f)) {
        if (f.number == PIECE_TEXT && f.kind == WIRE_BYTES) {
            piece->text = (const char *)f.data;
            piece->length = f.size;
        } else if (f.number == PIECE_SCORE && f.kind == WIRE_32) {
            uint32_t bits = (uint32_t)f.value;
            memcpy(&piece->score, &bits, sizeof bits);
        } else if (f.number == PIECE_TYPE && f.kind == WIRE_VARINT) {
            piece->type = (int)(f.value & 0xff);
        }
    }
    return !w.broken;
}

/* Twice over the file: a list would otherwise have to grow by what the file claims. The first pass (pieces
 * NULL) counts and looks at everything else, the second fills model->pieces. */
static bool read_model(struct wire w, struct spiece *model, struct spiece_piece *pieces, uint64_t *model_type)
{
    size_t count = 0;
    struct field f, inner;
    while (next_field(&w, &f)) {
        if (f.kind != WIRE_BYTES) continue;
        struct wire message = wire_of(&f);
        if (f.number == MODEL_PIECES) {
            if (pieces != NULL && !read_piece(&f, &pieces[count])) return false;
            count++;
        } else if (f.number == MODEL_TRAINER || f.number == MODEL_NORMALIZER) {
            while (next_field(&message, &inner)) {
                if (f.number == MODEL_TRAINER && inner.number == TRAINER_MODEL_TYPE &&
                    inner.kind == WIRE_VARINT)
                    *model_type = inner.value;
                if (f.number == MODEL_NORMALIZER && inner.number == NORMALIZER_CHARSMAP &&
                    inner.kind == WIRE_BYTES) {
                    model->charsmap = inner.size > 0 ? inner.data : NULL;
                    model->charsmap_bytes = inner.size;
                }
            }
            if (message.broken) return false;
        }
    }
    model->count = count;
    return !w.broken && count <= MAX_PIECES;
}

/* The whole file, malloc'ed. */
static status_t read_file(const char *path, uint8_t **bytes, size_t *size, struct error *error)
{
    struct stat info;
    uint8_t *data = NULL;
    status_t status = STATUS_OK;
    size_t done = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0) {
        status = error_set(error, errno == ENOENT ? STATUS_NOT_FOUND : STATUS_IO, "%s: cannot be opened: %m",
                           path);
        goto done;
    }
    if (!S_ISREG(info.st_mode) || info.st_size < 1 || info.st_size > MAX_FILE_BYTES) {
        status = error_set(error, STATUS_CORRUPT, "%s: %lld bytes, must be 1 to %d", path,
                           (long long)info.st_size, MAX_FILE_BYTES);
        goto done;
    }
    data = malloc((size_t)info.st_size);
    if (data == NULL) {
        status = error_set(error, STATUS_NO_MEMORY, "%s: does not fit in memory", path);
        goto done;
    }
    while (done < (size_t)info.st_size) {
        ssize_t n = read(fd, data + done, (size_t)info.st_size - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            status = error_set(error, STATUS_IO, "%s: ends after %zu bytes", path, done);
            goto done;
        }
        done += (size_t)n;
    }
    *bytes = data;
    *size = done;
    data = NULL;
done:
    free(data);
    if (fd >= 0) close(fd);
    return status;
}

status_t spiece_read(const char *path, struct spiece *model, struct error *error)
{
    struct spiece m = {0};
    size_t size = 0;
    status_t status = read_file(path, &m.file, &size, error);
    if (status != STATUS_OK) return status;

    uint64_t model_type = MODEL_TYPE_UNIGRAM;
    struct wire whole = {m.file, m.file + size, false};
    if (!read_model(whole, &m, NULL, &model_type) || m.count == 0) {
        status = error_set(error, STATUS_CORRUPT, "%s: not a SentencePiece model", path);
        goto fail;
    }
    if (model_type != MODEL_TYPE_UNIGRAM) {
        status = error_set(error, STATUS_UNSUPPORTED, "%s: model type %llu, must be 1 (unigram)", path,
                           (unsigned long long)model_type);
        goto fail;
    }
    m.pieces = calloc(m.count, sizeof *m.pieces);
    if (m.pieces == NULL) {
        status = error_set(error, STATUS_NO_MEMORY, "%s: %zu pieces do not fit in memory", path, m.count);
        goto fail;
    }
    if (!read_model(whole, &m, m.pieces, &model_type)) {
        status = error_set(error, STATUS_CORRUPT, "%s: a piece does not fit its length", path);
        goto fail;
    }
    *model = m;
    return STATUS_OK;

fail:
    spiece_free(&m);
    return status;
}

void spiece_free(struct spiece *model)
{
    free(model->file);
    free(model->pieces);
}
