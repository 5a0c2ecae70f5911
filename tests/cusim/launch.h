/*
 * launch.h - GPU_LAUNCH without nvcc: every kernel named by one gets an entry in the emulator's list, and is
 * started through cudaLaunchKernel of the stand-in runtime (tests/fakegpu), as an object made by nvcc would
 * do.
 */
#ifndef REFRAIN_CUSIM_LAUNCH_H
#define REFRAIN_CUSIM_LAUNCH_H

#include <new>
#include <tuple>
#include <utility>

/* The text of template argument K, from the compiler's name of this very function; clang leaves template
 * arguments out. */
template <auto K> static const char *cusim_kernel_name()
{
    static char name[256];
    const char *begin = strstr(__PRETTY_FUNCTION__, "K = ");
    begin = begin ? begin + 4 : __PRETTY_FUNCTION__;
    begin += strspn(begin, "&(");
    size_t length = strlen(begin);
    while (length && (begin[length - 1] == ']' || begin[length - 1] == ')')) length--;
    if (length >= sizeof name) length = sizeof name - 1;
    memcpy(name, begin, length);
    return name;
}

template <auto K> struct cusim_entry;

template <class... A, void (*K)(A...)> struct cusim_entry<K> {
    using arguments = std::tuple<A...>;
    static_assert((std::is_trivially_copyable<A>::value && ...), "kernel arguments are plain values");
    static_assert(alignof(arguments) <= 16, "arguments are kept in memory from malloc");

    template <size_t... I> static void pack_each(void *block, void **from, std::index_sequence<I...>)
    {
        new (block) arguments(*static_cast<A *>(from[I])...);
    }
    static void pack(void *block, void **from) { pack_each(block, from, std::index_sequence_for<A...>()); }
    static void call(const void *block) { std::apply(K, *static_cast<const arguments *>(block)); }

    struct registration {
        cusim_kernel kernel;
        registration()
            : kernel{cusim_kernel_name<K>(),
                     (const void *)K,
                     sizeof(arguments),
                     pack,
                     call,
                     {},
                     nullptr,
                     nullptr}
        {
            cusim_register(&kernel);
        }
    };
    static inline registration registered;

    static void launch(dim3 grid, dim3 block, size_t smem_bytes, cudaStream_t stream, A... arguments)
    {
        (void)&registered; /* an inline static exists only where it is named */
        void *pointers[] = {(void *)&arguments..., nullptr};
        cudaLaunchKernel((const void *)K, grid, block, pointers, smem_bytes, stream);
    }
};

#define GPU_LAUNCH(kernel, grid, block, smem_bytes, stream, ...)                                             \
    cusim_entry<kernel>::launch((grid), (block), (smem_bytes), (stream), ##__VA_ARGS__)

#endif
