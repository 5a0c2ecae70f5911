/*
 * gpu_memory.h - device memory for tests, through whatever libcudart the process finds.
 *
 *     uint8_t *x = gpu_memory_new(bytes);
 *     gpu_memory_put(x, bytes_here, bytes);      and get: when they return it is done
 *     gpu_memory_later(run, argument);           run(argument) on the stream, behind what is there
 *     gpu_memory_put_later(x, bytes_here, bytes);    likewise, and get_later
 *     gpu_memory_wait();                             until all of that is done
 */
#ifndef REFRAIN_TESTS_GPU_MEMORY_H
#define REFRAIN_TESTS_GPU_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

/* The stream on which everything happens. Made at first use; the process ends if there is no libcudart. */
void *gpu_memory_stream(void);
uint8_t *gpu_memory_new(uint64_t bytes);
void gpu_memory_free(void *memory);
void gpu_memory_put(void *to, const void *from, uint64_t bytes);
void gpu_memory_get(void *to, const void *from, uint64_t bytes);
void gpu_memory_later(void (*run)(void *), void *argument);
void gpu_memory_put_later(void *to, const void *from, uint64_t bytes);
void gpu_memory_get_later(void *to, const void *from, uint64_t bytes);
void gpu_memory_wait(void);
void gpu_memory_close(void); /* the stream; whoever needs it again gets another */

#endif
