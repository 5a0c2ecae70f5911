/*
 * test_checkpoint.c - what the checkpoint reader accepts, and that everything else gets a sentence.
 *
 * Files are made here byte by byte in a temporary directory; models/reference is read as a published one.
 */
#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/golden.h"
#include "worker/model/checkpoint.h"

static char directory[] = P_tmpdir "/refrain-checkpoint-XXXXXX";

static int make_directory(void **state)
{
    return mkdtemp(directory) ? 0 : -1;
}

static int empty_directory(void **state)
{
    DIR *open_directory = opendir(directory);
    struct dirent *entry;
    char path[512];
    while (open_directory && (entry = readdir(open_directory))) {
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        if (entry->d_name[0] != '.' && unlink(path) != 0) rmdir(path);
    }
    if (open_directory) closedir(open_directory);
    return 0;
}

static int remove_directory(void **state)
{
    empty_directory(state);
    return rmdir(directory);
}

static const char *in_directory(const char *name)
{
    static char path[4][512]; /* a few may be in use at once */
    static int next;
    next = (next + 1) % 4;
    snprintf(path[next], sizeof path[next], "%s/%s", directory, name);
    return path[next];
}

static void write_bytes(const char *name, const void *data, size_t bytes)
{
    FILE *file = fopen(in_directory(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

/* A file with this header, the length field saying `claimed` (its real length if negative), and data 0, 1, 2,
 * ... */
static void write_claiming(const char *name, const char *header, long long claimed, size_t data_bytes)
{
    size_t length = strlen(header);
    unsigned char *file = calloc(1, 8 + length + data_bytes);
    assert_non_null(file);
    unsigned long long value = claimed < 0 ? length : (unsigned long long)claimed;
    for (int i = 0; i < 8; i++) file[i] = (unsigned char)(value >> (8 * i));
    memcpy(file + 8, header, length);
    for (size_t i = 0; i < data_bytes; i++) file[8 + length + i] = (unsigned char)i;
    write_bytes(name, file, 8 + length + data_bytes);
    free(file);
}

static void write_tensors(const char *name, const char *header, size_t data_bytes)
{
    write_claiming(name, header, -1, data_bytes);
}

/* Opening the file must fail with this status and a sentence holding both `part` and the file's name. */
static void expect_refused(const char *name, status_t status, const char *part)
{
    struct error error = {0};
    struct checkpoint *checkpoint = NULL;
    assert_int_equal(checkpoint_open_file(in_directory(name), &checkpoint, &error), status);
    assert_null(checkpoint);
    if (!strstr(error.text, part)) fail_msg("\"%s\" does not say \"%s\"", error.text, part);
    if (!strstr(error.text, name)) fail_msg("\"%s\" does not name %s", error.text, name);
}

static void expect_header_refused(const char *header, size_t data_bytes, const char *part)
{
    write_tensors("x.safetensors", header, data_bytes);
    expect_refused("x.safetensors", STATUS_CORRUPT, part);
}

/* ------------------------------------------------------------------------------------------- what works */

static void the_published_layout_opens_sharded_and_single(void **state)
{
    struct error error = {0};
    struct checkpoint *vae, *text;
    struct tensor tensor;
    char path[512];
    golden_path(path, sizeof path, "models/reference/vae");
    assert_int_equal(checkpoint_open(path, &vae, &error), STATUS_OK);
    assert_int_equal(checkpoint_bytes(vae), 10311948);
    assert_int_equal(checkpoint_elements(vae), 10311948 / 4);
    assert_int_equal(
        checkpoint_tensor(vae, "decoder.conv_in.weight", 5, (int64_t[]){64, 16, 3, 3, 3}, &tensor, &error),
        STATUS_OK);
    assert_int_equal(tensor.count, 64 * 16 * 27);
    assert_true(checkpoint_has(vae, "quant_conv.bias"));
    assert_false(checkpoint_has(vae, "quant_conv"));
    checkpoint_close(vae);

    golden_path(path, sizeof path, "models/reference/text_encoder");
    assert_int_equal(checkpoint_open(path, &text, &error), STATUS_OK);
    assert_int_equal(checkpoint_tensor(text, "shared.weight", 2, (int64_t[]){-1, 128}, &tensor, &error),
                     STATUS_OK);
    assert_int_equal(tensor.dtype, DTYPE_BF16);
    checkpoint_forget(text, &tensor);
    float *wide = malloc((size_t)tensor.count * sizeof *wide);
    assert_non_null(wide);
    tensor_to_f32(&tensor, wide); /* forgotten pages come back */
    assert_true(isfinite(wide[0]) && isfinite(wide[tensor.count - 1]));
    free(wide);
    checkpoint_close(text);
}

static void half_and_bfloat_widen_exactly(void **state)
{
    static const uint16_t halves[] = {0x0000, 0x8000, 0x3c00, 0xc000, 0x0001, 0x03ff,
                                      0x0400, 0x7bff, 0x7c00, 0xfc00, 0x7e01, 0x3555};
    static const float wanted[] = {0.0f,     -0.0f,   1.0f,     -2.0f,     0x1p-24f, 1023 * 0x1p-24f,
                                   0x1p-14f, 65504.f, INFINITY, -INFINITY, NAN,      0.333251953125f};
    float got[12];
    tensor_to_f32(&(struct tensor){halves, DTYPE_F16, 1, {12}, 12}, got);
    for (int i = 0; i < 12; i++)
        if (!isnan(wanted[i])) assert_memory_equal(&got[i], &wanted[i], 4);
    assert_true(isnan(got[10]));

    static const uint16_t bfloats[] = {0x3f80, 0xc049, 0x0001, 0x7f80};
    static const uint32_t bits[] = {0x3f800000, 0xc0490000, 0x00010000, 0x7f800000};
    tensor_to_f32(&(struct tensor){bfloats, DTYPE_BF16, 1, {4}, 4}, got);
    assert_memory_equal(got, bits, sizeof bits);
}

static void a_written_tensor_reads_back_bit_for_bit(void **state)
{
    float data[2 * 3 * 5];
    for (int i = 0; i < 30; i++) data[i] = (float)i * 0.37f - 3;
    struct error error = {0};
    struct checkpoint *checkpoint;
    struct tensor tensor;
    const char *path = in_directory("written.safetensors");
    for (int again = 0; again < 2; again++) /* the second replaces the first */
        assert_int_equal(safetensors_write_f32(path, "latents", 3, (int64_t[]){2, 3, 5}, data, &error),
                         STATUS_OK);
    assert_int_equal(checkpoint_open_file(path, &checkpoint, &error), STATUS_OK);
    assert_int_equal(checkpoint_tensor(checkpoint, "latents", 3, (int64_t[]){2, 3, 5}, &tensor, &error),
                     STATUS_OK);
    assert_memory_equal(tensor.data, data, sizeof data);
    assert_int_equal((uintptr_t)tensor.data % 8, 0);
    checkpoint_close(checkpoint);
    assert_int_equal(
        safetensors_write_f32("/nonexistent/x.safetensors", "a", 1, (int64_t[]){30}, data, &error),
        STATUS_IO);
    assert_non_null(strstr(error.text, "/nonexistent/x.safetensors"));
}

static void scalars_empty_tensors_metadata_and_integers_are_part_of_the_format(void **state)
{
    write_tensors("mixed.safetensors",
                  "{\"__metadata__\":{\"format\":\"pt\"},"
                  "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
                  "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
                  "\"ids\":{\"dtype\":\"I16\",\"shape\":[2],\"data_offsets\":[4,8]},"
                  "\"flags\":{\"dtype\":\"BOOL\",\"shape\":[3],\"data_offsets\":[8,11]}}   ",
                  11);
    struct error error = {0};
    struct checkpoint *checkpoint;
    struct tensor tensor;
    int64_t *values, count;
    assert_int_equal(checkpoint_open_file(in_directory("mixed.safetensors"), &checkpoint, &error), STATUS_OK);
    assert_int_equal(checkpoint_elements(checkpoint), 6);
    assert_int_equal(checkpoint_tensor(checkpoint, "scalar", 0, NULL, &tensor, &error), STATUS_OK);
    assert_int_equal(tensor.count, 1);
    assert_int_equal(checkpoint_tensor(checkpoint, "empty", 2, (int64_t[]){0, 7}, &tensor, &error),
                     STATUS_OK);
    assert_int_equal(checkpoint_integers(checkpoint, "ids", &values, &count, &error), STATUS_OK);
    assert_int_equal(count, 2);
    assert_int_equal(values[1], 0x0706);
    free(values);
    assert_int_equal(checkpoint_integers(checkpoint, "flags", &values, &count, &error), STATUS_OK);
    assert_int_equal(values[2], 10);
    free(values);
    assert_int_equal(checkpoint_integers(checkpoint, "scalar", &values, &count, &error), STATUS_INVALID);
    checkpoint_close(checkpoint);
}

static void a_link_into_a_blob_store_is_followed(void **state)
{
    write_tensors("blob", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
    assert_int_equal(symlink("blob", in_directory("model.safetensors")), 0);
    struct checkpoint *checkpoint;
    assert_int_equal(checkpoint_open(directory, &checkpoint, NULL), STATUS_OK);
    checkpoint_close(checkpoint);
}

/* -------------------------------------------------------------------------------------- what is refused */

static void headers_that_lie_about_lengths_are_refused(void **state)
{
    write_bytes("empty.safetensors", "", 0);
    expect_refused("empty.safetensors", STATUS_CORRUPT, "too few");
    write_bytes("seven.safetensors", "1234567", 7);
    expect_refused("seven.safetensors", STATUS_CORRUPT, "too few");
    write_claiming("long.safetensors", "{}", 3, 0);
    expect_refused("long.safetensors", STATUS_CORRUPT, "claims 3 bytes");
    write_claiming("huge.safetensors", "{}", 0x7fffffffffffffffLL, 0);
    expect_refused("huge.safetensors", STATUS_CORRUPT, "claims");
    write_claiming("short.safetensors", "{\"a\":{}}", 3, 0);
    expect_refused("short.safetensors", STATUS_CORRUPT, "not a JSON object");
    expect_header_refused("[]", 0, "not a JSON object");
    expect_header_refused("{\"a\":1}", 0, "dtype");

    size_t big = (16 << 20) + 1;
    char *spaces = malloc(big + 1);
    assert_non_null(spaces);
    memset(spaces, ' ', big);
    memcpy(spaces, "{}", 2);
    spaces[big] = 0;
    expect_header_refused(spaces, 0, "larger than the limit");
    memset(spaces, '[', 1 << 20);
    memcpy(spaces, "{\"a\":", 5);
    spaces[1 << 20] = 0;
    expect_header_refused(spaces, 0, "not a JSON object"); /* a megabyte deep */
    free(spaces);
}

static void tensors_that_do_not_fit_their_file_are_refused(void **state)
{
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *part;
    } cases[] = {
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 4, "cut short"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "need 8 bytes"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 6,
         "at the end belong to no tensor"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}", 6, "before tensor a"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[6,2]}}", 6, "begin <= end"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "begin <= end"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4,8]}}", 4, "begin <= end"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,4]}}", 4, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":\"1\",\"data_offsets\":[0,4]}}", 4, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "at most 8"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
         "larger than any file"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}", 4,
         "larger than any file"},
        {"{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype F33"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype (none)"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}",
         6, "overlap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
         4, "overlap"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8, "duplicate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_header_refused(cases[i].header, cases[i].data_bytes, cases[i].part);
}

static void what_is_not_a_file_is_refused_without_waiting(void **state)
{
    expect_refused("absent.safetensors", STATUS_NOT_FOUND, "cannot be opened");
    assert_int_equal(mkdir(in_directory("folder.safetensors"), 0700), 0);
    expect_refused("folder.safetensors", STATUS_INVALID, "is a directory");
    assert_int_equal(mkfifo(in_directory("pipe.safetensors"), 0600), 0);
    expect_refused("pipe.safetensors", STATUS_INVALID, "pipe");
    assert_int_equal(symlink("loop.safetensors", in_directory("loop.safetensors")), 0);
    expect_refused("loop.safetensors", STATUS_IO, "cannot be opened");
}

static void a_tensor_of_another_shape_or_kind_is_named_with_both(void **state)
{
    write_tensors("model.safetensors",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
                  "\"b\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[8,16]}}",
                  16);
    struct error error = {0};
    struct checkpoint *checkpoint;
    struct tensor tensor;
    assert_int_equal(checkpoint_open(directory, &checkpoint, &error), STATUS_OK);
    assert_int_equal(checkpoint_tensor(checkpoint, "a", 2, (int64_t[]){-1, 3}, &tensor, &error),
                     STATUS_CORRUPT);
    assert_non_null(
        strstr(error.text, "model.safetensors: tensor a is [1, 2], the configuration needs [any, 3]"));
    assert_int_equal(checkpoint_tensor(checkpoint, "a", 1, (int64_t[]){2}, &tensor, &error), STATUS_CORRUPT);
    assert_int_equal(checkpoint_tensor(checkpoint, "b", 1, (int64_t[]){1}, &tensor, &error),
                     STATUS_UNSUPPORTED);
    assert_non_null(strstr(error.text, "tensor b is I64"));
    assert_int_equal(checkpoint_tensor(checkpoint, "c", 1, (int64_t[]){1}, &tensor, &error),
                     STATUS_NOT_FOUND);
    assert_non_null(strstr(error.text, "tensor c is missing"));

    assert_int_equal(truncate(in_directory("model.safetensors"), 100), 0);
    assert_int_equal(checkpoint_tensor(checkpoint, "a", 2, (int64_t[]){1, 2}, &tensor, &error),
                     STATUS_CORRUPT);
    assert_non_null(strstr(error.text, "was cut"));
    checkpoint_close(checkpoint);
}

/* ---------------------------------------------------------------------------------------------- indexes */

static void expect_directory_refused(status_t status, const char *part)
{
    struct error error = {0};
    struct checkpoint *checkpoint = NULL;
    assert_int_equal(checkpoint_open(directory, &checkpoint, &error), status);
    if (!strstr(error.text, part)) fail_msg("\"%s\" does not say \"%s\"", error.text, part);
}

static void write_index(const char *text)
{
    write_bytes("model.safetensors.index.json", text, strlen(text));
}

static void a_missing_shard_is_counted_and_named(void **state)
{
    write_tensors("model-00001-of-00002.safetensors",
                  "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4);
    write_index("{\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\",\"b\":\"model-00002-of-00002."
                "safetensors\"}}");
    expect_directory_refused(
        STATUS_NOT_FOUND,
        ": shard 2 of 2 is missing (model-00002-of-00002.safetensors), named by the index file");
}

static void an_index_that_does_not_fit_its_shards_is_refused(void **state)
{
    static const char one[] = "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}";
    expect_directory_refused(STATUS_NOT_FOUND, "has neither");
    write_tensors("s1.safetensors", one, 4);
    write_tensors("s2.safetensors", one, 4);
    write_index("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s1.safetensors\"}}");
    expect_directory_refused(STATUS_CORRUPT, "tensor b should be in s1.safetensors and is not");
    write_index("{\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s2.safetensors\"}}");
    expect_directory_refused(STATUS_CORRUPT, "tensor a is also in");
    write_index("{\"weight_map\":{}}");
    expect_directory_refused(STATUS_CORRUPT, "has no weight_map");
    write_index("{\"weight_map\":[1]}");
    expect_directory_refused(STATUS_CORRUPT, "has no weight_map");
    write_index("[");
    expect_directory_refused(STATUS_CORRUPT, "index.json: line 1");
}

static void an_index_cannot_lead_out_of_its_directory(void **state)
{
    static const char *const names[] = {
        "../s1.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".safetensors", "", "s1.bin"};
    char text[256];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"%s\"}}", names[i]);
        write_index(text);
        expect_directory_refused(STATUS_CORRUPT,
                                 "is not the name of a .safetensors file in the same directory");
    }
    write_index("{\"weight_map\":{\"a\":7}}");
    expect_directory_refused(STATUS_CORRUPT, "(not a string)");
}

int main(void)
{
#define IN_EMPTY_DIRECTORY(test) cmocka_unit_test_teardown(test, empty_directory)
    const struct CMUnitTest tests[] = {
        IN_EMPTY_DIRECTORY(the_published_layout_opens_sharded_and_single),
        IN_EMPTY_DIRECTORY(half_and_bfloat_widen_exactly),
        IN_EMPTY_DIRECTORY(a_written_tensor_reads_back_bit_for_bit),
        IN_EMPTY_DIRECTORY(scalars_empty_tensors_metadata_and_integers_are_part_of_the_format),
        IN_EMPTY_DIRECTORY(a_link_into_a_blob_store_is_followed),
        IN_EMPTY_DIRECTORY(headers_that_lie_about_lengths_are_refused),
        IN_EMPTY_DIRECTORY(tensors_that_do_not_fit_their_file_are_refused),
        IN_EMPTY_DIRECTORY(what_is_not_a_file_is_refused_without_waiting),
        IN_EMPTY_DIRECTORY(a_tensor_of_another_shape_or_kind_is_named_with_both),
        IN_EMPTY_DIRECTORY(a_missing_shard_is_counted_and_named),
        IN_EMPTY_DIRECTORY(an_index_that_does_not_fit_its_shards_is_refused),
        IN_EMPTY_DIRECTORY(an_index_cannot_lead_out_of_its_directory),
    };
    return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
