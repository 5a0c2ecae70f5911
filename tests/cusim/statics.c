/* statics.c - the __shared__ arrays of kernels. In emulation they are thread_local variables inside
 * functions, so that each OS thread's block has its own; here they are found, to poison them before each
 * block and to know their size.
 *
 * Found how: in the symbol table of our own object, variables of type TLS whose mangled name is that of
 * something local to a function (_ZZ...). Those local to a kernel are that kernel's; those local to device
 * functions are poisoned for every kernel. A stripped object has no such table: then nothing is poisoned and
 * sizes are 0. */
#include "tests/cusim/block.h"
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct array {
    const char *name; /* in the mapped file */
    size_t offset, bytes;
    bool of_kernel;
};

struct kernel_arrays { /* kept with the kernel */
    size_t bytes;      /* of its own arrays */
    int count;
    struct array array[];
};

/* Our own object. */
static size_t tls_module;
static uintptr_t load_address;
static char path[4096];

/* Its file: symbols and their names. */
static const Elf64_Sym *symbols;
static size_t symbol_count;
static const char *names;

static struct array *arrays;
static int array_count;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* --- our own object ------------------------------------------------------------------------------------- */

static int is_ours(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    uintptr_t here = (uintptr_t)&is_ours;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t begin = info->dlpi_addr + segment->p_vaddr;
        if (segment->p_type != PT_LOAD || here < begin || here >= begin + segment->p_memsz) continue;
        tls_module = info->dlpi_tls_modid;
        load_address = info->dlpi_addr;
        snprintf(path, sizeof path, "%s", *info->dlpi_name ? info->dlpi_name : "/proc/self/exe");
        return 1;
    }
    return 0;
}

static void find_symbols(const char *file, size_t bytes)
{
    const Elf64_Ehdr *header = (const Elf64_Ehdr *)file;
    if (bytes < sizeof *header || memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(file + header->e_shoff);
    for (int i = 0; i < header->e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        symbols = (const Elf64_Sym *)(file + sections[i].sh_offset);
        symbol_count = sections[i].sh_size / sizeof *symbols;
        names = file + sections[sections[i].sh_link].sh_offset;
    }
}

static void map_object(void)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) != 0) return;
    void *file = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE, fd,
                      0); /* stays for the life of the process */
    close(fd);
    if (file != MAP_FAILED) find_symbols(file, (size_t)status.st_size);
}

static void find_arrays(void)
{
    dl_iterate_phdr(is_ours, NULL);
    map_object();
    for (int pass = 0; pass < 2; pass++) {
        array_count = 0;
        for (size_t i = 0; i < symbol_count; i++) {
            const Elf64_Sym *symbol = &symbols[i];
            const char *name = names + symbol->st_name;
            if (ELF64_ST_TYPE(symbol->st_info) != STT_TLS || strncmp(name, "_ZZ", 3) != 0) continue;
            if (pass) arrays[array_count] = (struct array){name, symbol->st_value, symbol->st_size, false};
            array_count++;
        }
        if (!pass && array_count) arrays = calloc((size_t)array_count, sizeof *arrays);
        if (!arrays) array_count = 0;
    }
}

/* --- which arrays are a kernel's ------------------------------------------------------------------------ */

/* What names local to the kernel begin with, "_ZZ" + encoding + "E"; false when its symbol is not found. */
static bool local_prefix(const struct cusim_kernel *kernel, char *prefix, size_t room)
{
    uintptr_t value = (uintptr_t)kernel->function - load_address;
    for (size_t i = 0; i < symbol_count; i++) {
        if (ELF64_ST_TYPE(symbols[i].st_info) != STT_FUNC || symbols[i].st_value != value) continue;
        const char *name = names + symbols[i].st_name;
        int length = strncmp(name, "_Z", 2) == 0 ? snprintf(prefix, room, "_ZZ%sE", name + 2)
                                                 : snprintf(prefix, room, "_ZZ%zu%sE", strlen(name), name);
        return length > 0 && (size_t)length < room;
    }
    return false;
}

static void mark_kernels(void)
{
    for (const struct cusim_kernel *kernel = kernels_first(); kernel; kernel = kernel->next) {
        char prefix[2048];
        if (!local_prefix(kernel, prefix, sizeof prefix)) continue;
        for (int i = 0; i < array_count; i++)
            if (strncmp(arrays[i].name, prefix, strlen(prefix)) == 0) arrays[i].of_kernel = true;
    }
}

static void prepare(void)
{
    find_arrays();
    mark_kernels();
}

static const struct kernel_arrays *arrays_of(struct cusim_kernel *kernel)
{
    pthread_once(&once, prepare);
    pthread_mutex_lock(&lock);
    struct kernel_arrays *own = kernel->arrays;
    if (!own && (own = calloc(1, sizeof *own + (size_t)array_count * sizeof *own->array))) {
        char prefix[2048];
        bool found = local_prefix(kernel, prefix, sizeof prefix);
        for (int i = 0; i < array_count; i++) {
            bool mine = found && strncmp(arrays[i].name, prefix, strlen(prefix)) == 0;
            if (mine) own->bytes += arrays[i].bytes;
            if (mine || !arrays[i].of_kernel) own->array[own->count++] = arrays[i];
        }
        kernel->arrays = own;
    }
    pthread_mutex_unlock(&lock);
    if (!own) report("no memory for the list of shared arrays");
    return own;
}

size_t cusim_static_shared(struct cusim_kernel *kernel)
{
    return arrays_of(kernel)->bytes;
}

/* The address of a variable of an object's TLS block in the calling thread, made now if it is not there yet:
 * the function compilers call (ELF handling for thread-local storage, Drepper, 4.2). */
extern void *__tls_get_addr(size_t index[2]);

void statics_poison(struct cusim_kernel *kernel)
{
    const struct kernel_arrays *own = arrays_of(kernel);
    for (int i = 0; i < own->count; i++)
        memset(__tls_get_addr((size_t[2]){tls_module, own->array[i].offset}), SHARED_POISON,
               own->array[i].bytes);
}
