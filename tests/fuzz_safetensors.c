/*
 * fuzz_safetensors.c - libFuzzer entry: no bytes may make the checkpoint reader crash, leak or read outside
 * the file.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -std=gnu17 -D_GNU_SOURCE -I. \
 *         tests/fuzz_safetensors.c worker/model/checkpoint.c worker/model/safetensors.c base/status.c \
 *         -ljansson -o fuzz_safetensors
 *     ./fuzz_safetensors -max_total_time=60 CORPUS
 *
 * The first byte chooses: odd, the rest is a file as it is; even, it is a header and gets the right length in
 * front and 64 bytes of data behind, so that mutations reach what lies beyond the length check.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "worker/model/checkpoint.h"
#include "worker/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(int fd, const void *bytes, size_t count)
{
    if (write(fd, bytes, count) != (ssize_t)count) abort();
}

/* Reads every tensor the checkpoint admits to have. */
static void read_all(const struct checkpoint *checkpoint, const struct safetensors *file)
{
    for (size_t i = 0; i < file->count; i++) {
        const struct safetensors_entry *entry = &file->entries[i];
        struct tensor tensor;
        int64_t *integers, count;
        if (checkpoint_tensor(checkpoint, entry->name, entry->rank, entry->shape, &tensor, NULL) ==
            STATUS_OK) {
            float *wide = malloc((size_t)tensor.count * sizeof *wide + 1);
            if (!wide) abort();
            tensor_to_f32(&tensor, wide);
            checkpoint_forget(checkpoint, &tensor);
            free(wide);
        }
        if (checkpoint_integers(checkpoint, entry->name, &integers, &count, NULL) == STATUS_OK)
            free(integers);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint8_t tail[64];
    if (size == 0) return 0;
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0) abort();
    if (data[0] % 2 == 0) {
        uint64_t length = size - 1; /* little-endian hosts only, like every machine this runs on */
        put(fd, &length, sizeof length);
    }
    put(fd, data + 1, size - 1);
    if (data[0] % 2 == 0) put(fd, tail, sizeof tail);

    char path[64];
    struct error error = {0};
    struct checkpoint *checkpoint;
    struct safetensors file;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (safetensors_open(path, &file, &error) == STATUS_OK) {
        if (checkpoint_open_file(path, &checkpoint, &error) == STATUS_OK) {
            read_all(checkpoint, &file);
            checkpoint_close(checkpoint);
        }
        safetensors_close(&file);
    } else if (error.text[0] == 0) {
        abort(); /* refused without a reason */
    }
    close(fd);
    return 0;
}
