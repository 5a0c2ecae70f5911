/*
 * test_vae.c - the VAE against diffusers' (tools/golden_vae.py), on every backend this machine has.
 *
 * The golden checkpoints have odd widths, one to five levels, every order of temporal and spatial resampling,
 * all three stored types, and sizes that are not square.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tests/device.h"
#include "tests/golden.h"
#include "tests/guarded.h"
#include "worker/model/vae_layers.h"

static const char *const NAMES[] = {"narrow", "uneven", "shallow", "still", "flat", "deep", "reference"};
enum { NAME_COUNT = sizeof NAMES / sizeof *NAMES };

/* The scalar backend takes seconds for a real video. */
static bool takes_too_long(const struct ops *ops, const char *name)
{
    return strcmp(ops->name, "ref") == 0 && strcmp(name, "reference") == 0;
}

/* One golden with its checkpoint open on one backend. */
struct fixture {
    struct golden *golden;
    struct vae_config config;
    struct vae *vae;
    struct team *team;
    int latent_frames, latent_height, latent_width, frames, height, width;
};

static void directory_of(const char *name, char *path, int bytes)
{
    char relative[256];
    snprintf(relative, sizeof relative,
             strcmp(name, "reference") == 0 ? "models/reference/vae" : "tests/golden/vae/%s", name);
    golden_path(path, bytes, relative);
}

static void open_fixture(const char *name, const struct ops *ops, int threads, struct fixture *f)
{
    char path[512], file[256];
    struct error error = {0};
    int64_t shape[8];
    directory_of(name, path, sizeof path);
    snprintf(file, sizeof file, "vae_%s", name);
    f->golden = golden_open(file);
    f->team = device_team(ops, threads);
    if (vae_config_read(path, &f->config, &error) != STATUS_OK ||
        vae_load(path, &f->config, ops, f->team, VAE_DECODER | VAE_ENCODER, &f->vae, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    assert_int_equal(golden_shape(f->golden, "latents", shape), 4);
    assert_int_equal(shape[0], f->config.latent_channels);
    f->latent_frames = (int)shape[1];
    f->latent_height = (int)shape[2];
    f->latent_width = (int)shape[3];
    f->frames = 1 + f->config.scale_t * (f->latent_frames - 1);
    f->height = f->latent_height * f->config.scale_y;
    f->width = f->latent_width * f->config.scale_y;
}

static void close_fixture(struct fixture *f)
{
    const struct ops *ops = f->vae->ops;
    vae_destroy(f->vae);
    device_team_free(ops, f->team);
    golden_close(f->golden);
}

static int64_t frame_floats(const struct fixture *f)
{
    return (int64_t)3 * f->height * f->width;
}

static int64_t latent_floats(const struct fixture *f, int latent_frames)
{
    return (int64_t)f->config.latent_channels * latent_frames * f->latent_height * f->latent_width;
}

static float *new_floats(int64_t count)
{
    float *floats = malloc((size_t)count * sizeof *floats);
    assert_non_null(floats);
    memset(floats, 0xff, (size_t)count * sizeof *floats); /* NaN: what is not written shows */
    return floats;
}

/* The golden's latents cut to the first `latent_frames`, decoded, in *bands if that is not NULL; the caller frees. */
static float *decode_within(const struct fixture *f, int latent_frames, const struct vae_limits *limits,
                            int *bands)
{
    const float *all = golden_f32(f->golden, "latents", NULL);
    int64_t plane = (int64_t)f->latent_height * f->latent_width;
    float *latents = new_floats(latent_floats(f, latent_frames));
    for (int c = 0; c < f->config.latent_channels; c++)
        memcpy(latents + c * latent_frames * plane, all + c * f->latent_frames * plane,
               (size_t)(latent_frames * plane) * sizeof *latents);

    int frames = 1 + f->config.scale_t * (latent_frames - 1);
    float *out = new_floats(frames * frame_floats(f));
    struct vae_stream *stream;
    assert_int_equal(
        vae_stream_open_within(f->vae, VAE_DECODER, f->latent_height, f->latent_width, limits, &stream, NULL),
        STATUS_OK);
    int pieces = vae_pieces(stream, latent_frames);
    if (bands) *bands = pieces / latent_frames;
    for (int i = 0; i < pieces; i++) {
        bool first = i < latent_frames, last = i >= pieces - latent_frames;
        int64_t made = (1 + f->config.scale_t * (i % latent_frames)) * frame_floats(f);
        assert_int_equal(vae_decode(stream, f->team, latents, latent_frames, i, out, NULL), STATUS_OK);
        assert_true(!last || !isnan(out[made - 1]));
        assert_true(!first || made == frames * frame_floats(f) || isnan(out[made]));
    }
    vae_stream_close(stream);
    free(latents);
    return out;
}

static float *decode(const struct fixture *f, int latent_frames)
{
    return decode_within(f, latent_frames, &(struct vae_limits){.batch = SIZE_MAX}, NULL);
}

/* tools/golden_vae.py: pattern(). */
static float *make_pattern(const struct fixture *f)
{
    float *frames = new_floats(f->frames * frame_floats(f)), *out = frames;
    for (int t = 0; t < f->frames; t++)
        for (int c = 0; c < 3; c++)
            for (int y = 0; y < f->height; y++)
                for (int x = 0; x < f->width; x++)
                    *out++ = (float)((7 * x + 11 * y + 5 * t + 80 * c + x * y / 3) % 256) / 255.0f;
    return frames;
}

/* In *bands if that is not NULL; the caller frees. */
static float *encode_within(const struct fixture *f, const struct vae_limits *limits, int *bands)
{
    float *frames = make_pattern(f), *latents = new_floats(latent_floats(f, f->latent_frames));
    struct vae_stream *stream;
    assert_int_equal(
        vae_stream_open_within(f->vae, VAE_ENCODER, f->latent_height, f->latent_width, limits, &stream, NULL),
        STATUS_OK);
    int pieces = vae_pieces(stream, f->latent_frames);
    for (int i = 0; i < pieces; i++)
        assert_int_equal(vae_encode(stream, f->team, frames, f->latent_frames, i, latents, NULL), STATUS_OK);
    if (bands) *bands = pieces / f->latent_frames;
    vae_stream_close(stream);
    free(frames);
    return latents;
}

static float *encode(const struct fixture *f)
{
    return encode_within(f, &(struct vae_limits){.batch = SIZE_MAX}, NULL);
}

/* ---------------------------------------------------------------------------------------- the reference */

/* The golden of the reference model keeps every third row and column from the second on. Returns the new
 * count. */
static int64_t sample_thirds(const struct fixture *f, float *frames)
{
    int64_t kept = 0;
    for (int64_t plane = 0; plane < (int64_t)f->frames * 3; plane++)
        for (int y = 1; y < f->height; y += 3)
            for (int x = 1; x < f->width; x += 3)
                frames[kept++] = frames[(plane * f->height + y) * f->width + x];
    return kept;
}

static void decoded_frames_equal_the_reference(void **state)
{
    for (const struct ops *const *ops = guarded_or_all(); *ops; ops++)
        for (int i = 0; i < NAME_COUNT; i++) {
            struct fixture f;
            if (takes_too_long(*ops, NAMES[i])) continue;
            open_fixture(NAMES[i], *ops, 2, &f);
            float *frames = decode(&f, f.latent_frames);
            int64_t count = f.frames * frame_floats(&f);
            if (strcmp(NAMES[i], "reference") == 0) count = sample_thirds(&f, frames);
            double distance = golden_relative_l2(frames, golden_f32(f.golden, "frames", NULL), count);
            print_message("  %-10s %-10s decode %.2e\n", (*ops)->name, NAMES[i], distance);
            golden_expect(f.golden, "frames", frames, count, 2e-5);
            free(frames);
            close_fixture(&f);
        }
}

static void encoded_latents_equal_the_reference(void **state)
{
    for (const struct ops *const *ops = guarded_or_all(); *ops; ops++)
        for (int i = 0; i < NAME_COUNT; i++) {
            struct fixture f;
            if (takes_too_long(*ops, NAMES[i])) continue;
            open_fixture(NAMES[i], *ops, 2, &f);
            float *latents = encode(&f);
            if (golden_has(f.golden, "encoded")) {
                double distance = golden_relative_l2(latents, golden_f32(f.golden, "encoded", NULL),
                                                     latent_floats(&f, f.latent_frames));
                print_message("  %-10s %-10s encode %.2e\n", (*ops)->name, NAMES[i], distance);
                golden_expect(f.golden, "encoded", latents, latent_floats(&f, f.latent_frames), 2e-5);
            }
            free(latents);
            close_fixture(&f);
        }
}

/* The published VAE's middle is one head of 384; the golden ones are narrower. */
static void attention_takes_one_head_as_wide_as_a_published_middle(void **state)
{
    enum { ROWS = 30 };
    static const int widths[] = {257, 384, 512};
    struct team *team;
    assert_int_equal(team_create(2, &team, NULL), STATUS_OK);
    for (const struct ops *const *ops = ops_available() + 1; *ops; ops++)
        for (int i = 0; i < 3; i++) {
            int c = widths[i];
            float *qkv = new_floats((int64_t)ROWS * 3 * c), *out[2];
            for (int j = 0; j < ROWS * 3 * c; j++) qkv[j] = (float)(j * 37 % 199) / 100 - 1;
            for (int j = 0; j < 2; j++) {
                out[j] = new_floats((int64_t)ROWS * c);
                struct attention a = {
                    .q = qkv, .k = qkv + c, .v = qkv + 2 * c, .out = out[j], .scale = 0.05f};
                a.q_stride = a.k_stride = a.v_stride = 3 * c;
                a.out_stride = a.head_dim = c;
                a.q_rows = a.kv_rows = ROWS;
                a.heads = 1;
                (j == 0 ? *ops : ops_find("ref"))->attention(team, &a);
            }
            assert_true(golden_relative_l2(out[0], out[1], (int64_t)ROWS * c) < 2e-6);
            free(qkv), free(out[0]), free(out[1]);
        }
    team_destroy(team);
}

/* ----------------------------------------------------------------------------------------- bits, memory */

static void bits_do_not_depend_on_threads_and_a_shorter_video_is_the_beginning_of_a_longer(void **state)
{
    static const int threads[] = {1, 2, 3, 5};
    for (const struct ops *const *ops = ops_available() + 1; *ops; ops++) /* ref has one order only */
        for (int i = 0; i < NAME_COUNT; i++) {
            float *first_frames = NULL, *first_latents = NULL;
            for (int j = 0; j < 4; j++) {
                struct fixture f;
                open_fixture(NAMES[i], *ops, threads[j], &f);
                float *frames = decode(&f, f.latent_frames), *latents = encode(&f);
                if (j == 0) {
                    float *begin = decode(&f, (f.latent_frames + 1) / 2);
                    int begun = 1 + f.config.scale_t * ((f.latent_frames + 1) / 2 - 1);
                    assert_memory_equal(begin, frames, (size_t)(begun * frame_floats(&f)) * sizeof *frames);
                    free(begin);
                    first_frames = frames;
                    first_latents = latents;
                } else {
                    assert_memory_equal(frames, first_frames,
                                        (size_t)(f.frames * frame_floats(&f)) * sizeof *frames);
                    assert_memory_equal(latents, first_latents,
                                        (size_t)latent_floats(&f, f.latent_frames) * sizeof *latents);
                    free(frames);
                    free(latents);
                }
                close_fixture(&f);
            }
            free(first_frames);
            free(first_latents);
        }
}

/* One, two or three frames a pass instead of all: large videos are made so. */
static void bits_do_not_depend_on_how_many_frames_a_pass_takes(void **state)
{
    for (int i = 0; i < NAME_COUNT; i++) {
        struct fixture f;
        open_fixture(NAMES[i], guarded_or(NULL), 2, &f);
        float *frames = decode(&f, f.latent_frames), *latents = encode(&f);
        size_t finest = (size_t)f.height * (size_t)f.width * (size_t)f.config.base * sizeof(float);
        for (size_t count = 1; count <= 3; count++) {
            float *other_frames =
                decode_within(&f, f.latent_frames, &(struct vae_limits){.batch = count * finest}, NULL);
            float *other_latents = encode_within(&f, &(struct vae_limits){.batch = count * finest}, NULL);
            assert_memory_equal(other_frames, frames, (size_t)(f.frames * frame_floats(&f)) * sizeof *frames);
            assert_memory_equal(other_latents, latents,
                                (size_t)latent_floats(&f, f.latent_frames) * sizeof *latents);
            free(other_frames);
            free(other_latents);
        }
        free(frames);
        free(latents);
        close_fixture(&f);
    }
}

static void check_bands(const struct fixture *f, enum vae_part part)
{
    bool decodes = part == VAE_DECODER;
    int64_t floats = decodes ? f->frames * frame_floats(f) : latent_floats(f, f->latent_frames);
    float *whole = decodes ? decode(f, f->latent_frames) : encode(f);
    for (int bands = 2; bands <= (f->latent_height + 1) / VAE_BAND_ROWS; bands++) {
        int made;
        struct vae_limits limits = {.batch = SIZE_MAX, .bands = bands, .frames = f->latent_frames};
        float *other =
            decodes ? decode_within(f, f->latent_frames, &limits, &made) : encode_within(f, &limits, &made);
        assert_int_equal(made, bands);
        assert_memory_equal(other, whole, (size_t)floats * sizeof *whole);
        free(other);
    }
    free(whole);
}

static void check_bands_of_all(enum vae_part part)
{
    for (const struct ops *const *ops = guarded_or_all(); *ops; ops++)
        for (int i = 0; i < NAME_COUNT; i++) {
            struct fixture f;
            if (takes_too_long(*ops, NAMES[i])) continue;
            open_fixture(NAMES[i], *ops, 2, &f);
            check_bands(&f, part);
            close_fixture(&f);
        }
}

static void frames_have_the_same_bits_in_any_number_of_bands(void **state)
{
    check_bands_of_all(VAE_DECODER);
}

static void latents_have_the_same_bits_in_any_number_of_bands(void **state)
{
    check_bands_of_all(VAE_ENCODER);
}

/* Noise with more rows than convolutions see beyond a band, decoded or encoded in bands. The caller frees. */
static float *code_tall(const struct fixture *f, enum vae_part part, const struct vae_limits *limits,
                        int *bands, size_t *bytes)
{
    struct vae_stream *stream;
    struct error error;
    status_t status = STATUS_OK;
    int64_t count = part == VAE_DECODER ? latent_floats(f, f->latent_frames) : f->frames * frame_floats(f);
    float *in = new_floats(count);
    float *out =
        new_floats(part == VAE_DECODER ? f->frames * frame_floats(f) : latent_floats(f, f->latent_frames));
    for (int64_t i = 0; i < count; i++)
        in[i] =
            (float)(i * 7919 % 4001) / 4001 * (part == VAE_DECODER ? 4 : 1) - (part == VAE_DECODER ? 2 : 0);
    if (vae_stream_open_within(f->vae, part, f->latent_height, f->latent_width, limits, &stream, &error) !=
        STATUS_OK)
        fail_msg("%s", error.text);
    int pieces = vae_pieces(stream, f->latent_frames);
    for (int i = 0; i < pieces && status == STATUS_OK; i++)
        status = part == VAE_DECODER ? vae_decode(stream, f->team, in, f->latent_frames, i, out, NULL)
                                     : vae_encode(stream, f->team, in, f->latent_frames, i, out, NULL);
    assert_int_equal(status, STATUS_OK);
    *bands = pieces / f->latent_frames;
    *bytes = stream->arena.size + stream->shared.size;
    vae_stream_close(stream);
    free(in);
    return out;
}

static void check_tall(const char *name, enum vae_part part)
{
    struct fixture f;
    int bands = 1, most = 0;
    size_t whole, bytes;
    open_fixture(name, guarded_or(NULL), 2, &f);
    f.latent_frames = 3, f.latent_height = 71, f.latent_width = 3;
    f.frames = 1 + (f.latent_frames - 1) * f.config.scale_t;
    f.height = f.latent_height * f.config.scale_y, f.width = f.latent_width * f.config.scale_y;
    struct vae_limits limits = {.batch = 1 << 18, .frames = f.latent_frames};
    float *first = code_tall(&f, part, &limits, &bands, &whole);
    assert_int_equal(bands, 1);
    int64_t floats = part == VAE_DECODER ? f.frames * frame_floats(&f) : latent_floats(&f, f.latent_frames);
    for (int tenths = 8; tenths >= (part == VAE_DECODER ? 2 : 4); tenths -= 2) {
        limits.stream = whole / 10 * (size_t)tenths;
        float *other = code_tall(&f, part, &limits, &bands, &bytes);
        print_message("  %-10s %d bands: %zu of %zu bytes\n", name, bands, bytes, whole);
        assert_true(bands > 1 && bands >= most && bytes <= limits.stream);
        assert_memory_equal(other, first, (size_t)floats * sizeof *first);
        most = bands;
        free(other);
    }
    free(first);
    close_fixture(&f);
}

static void a_tall_video_has_the_same_bits_within_any_memory_and_takes_less(void **state)
{
    static const char *const names[] = {"narrow", "shallow", "uneven", "reference"};
    for (int i = 0; i < 4; i++) check_tall(names[i], VAE_DECODER);
    for (int i = 0; i < 4; i++) check_tall(names[i], VAE_ENCODER);
}

static void a_limit_below_the_narrowest_bands_is_refused_with_both_sizes(void **state)
{
    struct fixture f;
    struct vae_stream *stream = NULL;
    struct error error = {0};
    open_fixture("reference", guarded_or(NULL), 1, &f);
    assert_int_equal(vae_stream_open(f.vae, VAE_DECODER, 90, 160, 1 << 20, &stream, &error),
                     STATUS_NO_MEMORY);
    assert_non_null(strstr(error.text, "MB in the narrowest bands, the limit is 1.0 MB"));
    assert_null(stream);
    close_fixture(&f);
}

static void a_stream_uses_exactly_the_bytes_it_announces(void **state)
{
    struct fixture f;
    open_fixture("reference", guarded_or(NULL), 1, &f);
    static const int sizes[][2] = {{1, 1}, {8, 8}, {5, 9}, {60, 104}};
    static const enum vae_part parts[] = {VAE_DECODER, VAE_ENCODER};
    for (int p = 0; p < 2; p++)
        for (int i = 0; i < 4; i++) {
            struct vae_stream *stream;
            size_t bytes = vae_stream_bytes(f.vae, parts[p], sizes[i][0], sizes[i][1]);
            assert_int_equal(vae_stream_open(f.vae, parts[p], sizes[i][0], sizes[i][1], 0, &stream, NULL),
                             STATUS_OK);
            assert_int_equal(stream->arena.used + stream->shared.used, bytes);
            assert_int_equal(stream->arena.size + stream->shared.size, bytes);
            vae_stream_close(stream);
        }
    close_fixture(&f);
}

/* --------------------------------------------------------------------------------------------- refusals */

static void impossible_sizes_and_parts_that_were_not_loaded_are_refused(void **state)
{
    struct team *team = device_team(ops_find("ref"), 1);
    char path[512];
    struct error error = {0};
    struct vae_config config;
    struct vae *vae;
    struct vae_stream *stream = NULL;
    directory_of("narrow", path, sizeof path);
    assert_int_equal(vae_config_read(path, &config, &error), STATUS_OK);
    assert_int_equal(vae_load(path, &config, ops_find("ref"), team, VAE_DECODER, &vae, &error), STATUS_OK);
    assert_true(vae_bytes(vae) > 0);
    assert_int_equal(vae_stream_open(vae, VAE_ENCODER, 2, 2, 0, &stream, &error), STATUS_CONFLICT);
    assert_int_equal(vae_stream_open(vae, VAE_DECODER, 0, 2, 0, &stream, &error), STATUS_INVALID);
    assert_int_equal(vae_stream_open(vae, VAE_DECODER, 2, 1 << 20, 0, &stream, &error), STATUS_INVALID);
    assert_null(stream);
    vae_destroy(vae);
    vae_destroy(NULL);
    vae_stream_close(NULL);
    device_team_free(ops_find("ref"), team);
}

static void a_checkpoint_that_does_not_fit_its_configuration_is_named(void **state)
{
    struct team *team = device_team(ops_find("ref"), 1);
    char path[512];
    struct error error = {0};
    struct vae_config config;
    struct vae *vae = NULL;
    directory_of("narrow", path, sizeof path);
    assert_int_equal(vae_config_read(path, &config, &error), STATUS_OK);
    assert_int_equal(vae_inspect(path, &config, &error), STATUS_OK);
    config.decoder_base = 4;
    assert_int_equal(vae_inspect(path, &config, &error), STATUS_CORRUPT);
    assert_non_null(strstr(
        error.text, "decoder.conv_in.weight is [3, 4, 3, 3, 3], the configuration needs [4, 4, 3, 3, 3]"));
    assert_int_equal(vae_load(path, &config, ops_find("ref"), team, VAE_DECODER, &vae, &error),
                     STATUS_CORRUPT);
    config.decoder_base = 3;
    config.resnets = 2;
    assert_int_equal(vae_inspect(path, &config, &error), STATUS_NOT_FOUND);
    assert_non_null(strstr(error.text, "decoder.up_blocks.0.resnets.2.norm1.gamma is missing"));
    assert_int_equal(vae_load(path, &config, ops_find("ref"), team, VAE_ENCODER, &vae, &error),
                     STATUS_NOT_FOUND);
    assert_null(vae);
    device_team_free(ops_find("ref"), team);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoded_frames_equal_the_reference),
        cmocka_unit_test(encoded_latents_equal_the_reference),
        cmocka_unit_test(attention_takes_one_head_as_wide_as_a_published_middle),
        cmocka_unit_test(bits_do_not_depend_on_threads_and_a_shorter_video_is_the_beginning_of_a_longer),
        cmocka_unit_test(bits_do_not_depend_on_how_many_frames_a_pass_takes),
        cmocka_unit_test(frames_have_the_same_bits_in_any_number_of_bands),
        cmocka_unit_test(latents_have_the_same_bits_in_any_number_of_bands),
        cmocka_unit_test(a_tall_video_has_the_same_bits_within_any_memory_and_takes_less),
        cmocka_unit_test(a_limit_below_the_narrowest_bands_is_refused_with_both_sizes),
        cmocka_unit_test(a_stream_uses_exactly_the_bytes_it_announces),
        cmocka_unit_test(impossible_sizes_and_parts_that_were_not_loaded_are_refused),
        cmocka_unit_test(a_checkpoint_that_does_not_fit_its_configuration_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
