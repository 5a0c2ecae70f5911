/*
 * test_quality.c - PSNR and SSIM against scikit-image, the perceptual distance against features of diffusers'
 * encoder (tools/golden_quality.py), and what a distance must do: see no difference where there is none, and
 * more where there is more. Then the files of a comparison.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/golden.h"
#include "tests/trial.h"
#include "worker/comparison.h"
#include "worker/model/vae_distance.h"
#include "worker/quality.h"

static const char *const NAMES[] = {"noise", "odd", "dark", "single", "film"};
enum { NAME_COUNT = sizeof NAMES / sizeof *NAMES };

static struct vae *load_vae(const char *backend, int parts)
{
    char path[512];
    struct error error = {0};
    struct vae_config config;
    struct vae *vae = NULL;
    golden_path(path, sizeof path, "models/reference/vae");
    if (vae_config_read(path, &config, &error) != STATUS_OK ||
        vae_load(path, &config, ops_find(backend), trial_team(0), parts, &vae, &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return vae;
}

static struct quality measure(struct vae *vae, struct team *team, const struct video_size *size,
                              const float *reference, const float *video)
{
    struct quality quality = {0};
    struct error error = {0};
    if (quality_measure(vae, team, reference, video, size->frames, size->height, size->width, &quality,
                        &error) != STATUS_OK)
        fail_msg("%s", error.text);
    return quality;
}

/* ---------------------------------------------------------------------------------------------- golden */

struct pair {
    const float *reference, *video;
    struct video_size size;
};

static const char *entry(const char *name, const char *what)
{
    static char text[64];
    snprintf(text, sizeof text, "%s.%s", name, what);
    return text;
}

static struct pair golden_pair(struct golden *golden, const char *name)
{
    int64_t shape[8];
    golden_shape(golden, entry(name, "video"), shape);
    struct pair pair = {.size = {(int)shape[0], (int)shape[3], (int)shape[2], 16}};
    pair.video = golden_f32(golden, entry(name, "video"), NULL);
    pair.reference = golden_f32(golden, entry(name, "reference"), NULL);
    return pair;
}

static void psnr_and_ssim_equal_those_of_scikit_image(void **state)
{
    struct golden *golden = golden_open("quality");
    for (int i = 0; i < NAME_COUNT; i++) {
        struct pair p = golden_pair(golden, NAMES[i]);
        struct quality q = measure(NULL, trial_team(1), &p.size, p.reference, p.video);
        const float *psnr = golden_f32(golden, entry(NAMES[i], "psnr"), NULL), *worst = psnr;
        for (int f = 1; f < p.size.frames; f++)
            if (psnr[f] < *worst) worst = psnr + f;
        assert_true(fabs(q.psnr - psnr[p.size.frames]) < 1e-5);
        assert_true(fabs(q.psnr_worst - *worst) < 1e-5);
        assert_true(fabs(q.ssim - *golden_f32(golden, entry(NAMES[i], "ssim"), NULL)) < 1e-6);
        assert_true(isnan(q.perceptual));
    }
    golden_close(golden);
}

static void perceptual_distance_equals_that_of_features_of_diffusers_encoder(void **state)
{
    struct golden *golden = golden_open("quality");
    for (const struct ops *const *ops = ops_available(); *ops; ops++) {
        struct vae *vae = load_vae((*ops)->name, VAE_ENCODER);
        for (int i = 0; i < NAME_COUNT; i++) {
            if (!golden_has(golden, entry(NAMES[i], "perceptual"))) continue;
            struct pair p = golden_pair(golden, NAMES[i]);
            struct quality q = measure(vae, trial_team(1), &p.size, p.reference, p.video);
            int64_t levels;
            const float *level = golden_f32(golden, entry(NAMES[i], "perceptual"), &levels);
            double mean = 0;
            for (int64_t l = 0; l < levels; l++) mean += level[l] / (double)levels;
            print_message("  %-10s %-7s %.6f, reference %.6f\n", (*ops)->name, NAMES[i], q.perceptual, mean);
            assert_true(fabs(q.perceptual - mean) < 1e-4 * mean);
        }
        vae_destroy(vae);
    }
    golden_close(golden);
}

/* ------------------------------------------------------------------------------- what a distance must do */

enum { FRAMES = 17, SIDE = 64, FLOATS = FRAMES * 3 * SIDE * SIDE };
static const struct video_size film = {FRAMES, SIDE, SIDE, 16};

static float *new_film(void)
{
    float *frames = malloc(FLOATS * sizeof *frames);
    assert_non_null(frames);
    return frames;
}

/* What the reference model's decoder makes of the golden's latents: pictures of the kind it is made for. */
static float *decode_film(struct vae *vae)
{
    struct golden *golden = golden_open("vae_reference");
    const float *latents = golden_f32(golden, "latents", NULL);
    float *frames = new_film();
    struct vae_stream *stream;
    assert_int_equal(vae_stream_open(vae, VAE_DECODER, SIDE / 8, SIDE / 8, 0, &stream, NULL), STATUS_OK);
    for (int t = 0; t < 1 + (FRAMES - 1) / 4; t++)
        assert_int_equal(vae_decode(stream, trial_team(1), latents, 1 + (FRAMES - 1) / 4, t, frames, NULL),
                         STATUS_OK);
    vae_stream_close(stream);
    golden_close(golden);
    return frames;
}

static float *noisy(const float *frames, int strength)
{
    float *noise = random_floats(FLOATS, 0.02f * (float)strength, 9), *out = new_film();
    for (int i = 0; i < FLOATS; i++) out[i] = frames[i] + noise[i];
    free(noise);
    return out;
}

/* Mean of the pixels up to `strength` to the left and right. */
static float *blurred(const float *frames, int strength)
{
    float *out = new_film();
    for (int i = 0; i < FLOATS; i++) {
        float sum = 0;
        int x = i % SIDE, count = 0;
        for (int k = -strength; k <= strength; k++)
            if (x + k >= 0 && x + k < SIDE) sum += frames[i + k], count++;
        out[i] = sum / (float)count;
    }
    return out;
}

static float *shifted(const float *frames, int strength)
{
    float *out = new_film();
    for (int i = 0; i < FLOATS; i++) out[i] = frames[i - i % SIDE + (i % SIDE + strength) % SIDE];
    return out;
}

static void every_measure_gets_worse_with_more_noise_blur_or_shift(void **state)
{
    struct vae *vae = load_vae("auto", VAE_DECODER | VAE_ENCODER);
    float *frames = decode_film(vae);
    static const struct {
        const char *name;
        float *(*change)(const float *frames, int strength);
    } changes[] = {{"noise", noisy}, {"blur", blurred}, {"shift", shifted}};
    for (int i = 0; i < 3; i++) {
        struct quality before = {INFINITY, INFINITY, 1, 0};
        for (int strength = 1; strength <= 3; strength++) {
            float *other = changes[i].change(frames, strength);
            struct quality q = measure(vae, trial_team(1), &film, frames, other);
            print_message("  %s %d: PSNR %.2f (worst %.2f), SSIM %.4f, perceptual %.5f\n", changes[i].name,
                          strength, q.psnr, q.psnr_worst, q.ssim, q.perceptual);
            assert_true(q.psnr < before.psnr && q.ssim < before.ssim);
            assert_true(q.perceptual > 1.1 * before.perceptual && q.perceptual < 4);
            assert_true(q.psnr_worst <= q.psnr);
            before = q;
            free(other);
        }
    }
    free(frames);
    vae_destroy(vae);
}

static void equal_videos_do_not_differ_and_neither_comes_first(void **state)
{
    struct vae *vae = load_vae("auto", VAE_DECODER | VAE_ENCODER);
    float *frames = decode_film(vae), *other = noisy(frames, 2);
    struct quality same = measure(vae, trial_team(1), &film, frames, frames);
    assert_true(same.psnr == INFINITY && same.psnr_worst == INFINITY && same.ssim == 1);
    assert_true(same.perceptual == 0);
    struct quality one = measure(vae, trial_team(1), &film, frames, other);
    struct quality two = measure(vae, trial_team(1), &film, other, frames);
    assert_true(one.psnr == two.psnr && one.psnr_worst == two.psnr_worst && one.ssim == two.ssim);
    assert_true(one.perceptual == two.perceptual);
    free(frames), free(other);
    vae_destroy(vae);
}

static void one_bad_frame_shows_in_the_worst_and_little_in_the_whole(void **state)
{
    float *frames = new_film(), *other = new_film();
    for (int i = 0; i < FLOATS; i++) frames[i] = other[i] = 0.5f;
    for (int i = 0; i < 3 * SIDE * SIDE; i++) other[8 * 3 * SIDE * SIDE + i] = 0.5f + 10 / 255.0f;
    struct quality q = measure(NULL, trial_team(1), &film, frames, other);
    assert_true(fabs(q.psnr_worst - 20 * log10(255 / 10.0)) < 1e-9);
    assert_true(fabs(q.psnr - q.psnr_worst - 10 * log10(FRAMES)) < 1e-9);
    free(frames), free(other);
}

static void results_have_the_same_bits_with_any_number_of_threads(void **state)
{
    struct vae *vae = load_vae("auto", VAE_DECODER | VAE_ENCODER);
    float *frames = decode_film(vae), *other = shifted(frames, 1);
    struct quality first = measure(vae, trial_team(0), &film, frames, other);
    for (int i = 1; i < TRIAL_TEAMS; i++) {
        struct quality q = measure(vae, trial_team(i), &film, frames, other);
        assert_memory_equal(&q, &first, sizeof q);
    }
    free(frames), free(other);
    vae_destroy(vae);
}

static void the_distance_has_the_same_bits_within_any_memory(void **state)
{
    enum { LATENT_FRAMES = 2 };
    static const struct video_size tall = {1 + 4 * (LATENT_FRAMES - 1), 16, 560, 16};
    struct vae *vae = load_vae("auto", VAE_ENCODER);
    int64_t floats = (int64_t)3 * tall.frames * tall.width * tall.height;
    float *frames = random_floats(floats, 1, 3), *other = random_floats(floats, 1, 4);
    struct quality first = measure(vae, trial_team(0), &tall, frames, other), q;
    size_t whole = vae_distance_bytes(vae, tall.height / 8, tall.width / 8, LATENT_FRAMES);
    struct error error = {0};
    struct quality_run *run;
    int most = LATENT_FRAMES;
    for (int percent = 100; percent >= 40; percent -= 20) {
        bool done = false;
        if (quality_open(vae, &tall, frames, other, whole * (size_t)percent / 100, &run, &error) != STATUS_OK)
            fail_msg("%s", error.text);
        int steps = quality_steps(run);
        assert_true(steps >= most && steps % LATENT_FRAMES == 0);
        assert_true((percent == 100) == (steps == LATENT_FRAMES));
        most = steps;
        while (!done) assert_int_equal(quality_step(run, trial_team(1), &done, &q, NULL), STATUS_OK);
        assert_memory_equal(&q, &first, sizeof q);
        quality_close(run);
    }
    assert_int_equal(quality_open(vae, &tall, frames, other, 100000, &run, &error), STATUS_NO_MEMORY);
    assert_non_null(strstr(error.text, "encoding a latent of 2 x 70 takes"));
    free(frames), free(other);
    vae_destroy(vae);
}

static void a_step_is_one_latent_frame_and_the_last_one_says_so(void **state)
{
    struct vae *vae = load_vae("auto", VAE_ENCODER);
    float *frames = random_floats(FLOATS, 1, 3);
    struct quality q = {.ssim = 7};
    struct quality_run *run;
    assert_int_equal(quality_open(vae, &film, frames, frames, 0, &run, NULL), STATUS_OK);
    assert_int_equal(quality_steps(run), 1 + (FRAMES - 1) / 4);
    bool done = false;
    for (int i = 1; i < quality_steps(run); i++) {
        assert_int_equal(quality_step(run, trial_team(1), &done, &q, NULL), STATUS_OK);
        assert_false(done);
    }
    assert_true(q.ssim == 7);
    assert_int_equal(quality_step(run, trial_team(1), &done, &q, NULL), STATUS_OK);
    assert_true(done);
    assert_true(q.ssim == 1);
    quality_close(run);

    assert_int_equal(quality_open(vae, &film, frames, frames, 0, &run, NULL), STATUS_OK);
    assert_int_equal(quality_step(run, trial_team(1), &done, &q, NULL), STATUS_OK);
    assert_false(done);
    quality_close(run); /* given up half-way */
    quality_close(NULL);
    free(frames);
    vae_destroy(vae);
}

/* --------------------------------------------------------------------------------------------- refusals */

static void sizes_the_encoder_does_not_take_and_a_missing_encoder_are_refused(void **state)
{
    static const struct video_size wrong[] = {
        {16, 64, 64, 16}, {17, 60, 64, 16}, {17, 64, 60, 16}, {0, 64, 64, 16}, {17, 0, 64, 16}};
    struct vae *vae = load_vae("auto", VAE_ENCODER), *decoder = load_vae("auto", VAE_DECODER);
    struct quality_run *run = NULL;
    struct error error = {0};
    float *frames = random_floats(FLOATS, 1, 3);
    for (int i = 0; i < 5; i++)
        assert_int_equal(quality_open(vae, &wrong[i], frames, frames, 0, &run, &error), STATUS_INVALID);
    assert_int_equal(quality_open(decoder, &film, frames, frames, 0, &run, &error), STATUS_CONFLICT);
    assert_null(run);
    free(frames);
    vae_destroy(vae);
    vae_destroy(decoder);
}

static void frames_smaller_than_the_window_have_no_ssim(void **state)
{
    struct video_size small = {1, 10, 64, 16};
    float *a = random_floats(3 * 10 * 64, 1, 3), *b = random_floats(3 * 10 * 64, 1, 4);
    struct quality q = measure(NULL, trial_team(1), &small, a, b);
    assert_true(isnan(q.ssim) && q.psnr > 0 && q.psnr < 30);
    free(a), free(b);
}

/* Nothing a broken video could hide behind. */
static void values_that_are_not_numbers_count_as_black_and_make_the_perceptual_distance_nan(void **state)
{
    struct vae *vae = load_vae("auto", VAE_ENCODER);
    float *a = random_floats(FLOATS, 1, 3), *b = random_floats(FLOATS, 1, 3);
    for (int i = 0; i < FLOATS; i++) a[i] = b[i] = 1;
    b[5000] = NAN;
    struct quality q = measure(vae, trial_team(1), &film, a, b);
    assert_true(fabs(q.psnr - 10 * log10(FLOATS)) < 1e-9);
    assert_true(isnan(q.perceptual));
    free(a), free(b);
    vae_destroy(vae);
}

/* ------------------------------------------------------------------------------------------- comparison */

/* What a command prints, in text [size]. */
static void run(char *text, size_t size, const char *command)
{
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t length = fread(text, 1, size - 1, pipe);
    text[length] = 0;
    assert_int_equal(pclose(pipe), 0);
}

/* Red, 0..255, of a pixel in the middle row of the first frame of the film. */
static int red_at(const char *directory, int x)
{
    char command[256], pixels[8] = "";
    snprintf(command, sizeof command,
             "ffmpeg -v error -i %s/comparison.mp4 -frames:v 1 -vf format=rgb24,crop=1:1:%d:%d -f rawvideo "
             "-pix_fmt rgb24 -",
             directory, x, SIDE / 2);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    assert_int_equal(fread(pixels, 1, 3, pipe), 3);
    assert_int_equal(pclose(pipe), 0);
    return (unsigned char)pixels[0];
}

static void a_comparison_shows_reference_video_and_amplified_difference(void **state)
{
    char directory[] = "/tmp/refrain-comparison-XXXXXX", text[256], command[256];
    float *a = new_film(), *b = new_film();
    assert_non_null(mkdtemp(directory));
    for (int i = 0; i < FLOATS; i++) a[i] = 0.75f, b[i] = 0.65f;
    assert_int_equal(comparison_write(directory, &film, a, b, NULL), STATUS_OK);
    assert_true(abs(red_at(directory, SIDE / 2) - 191) < 6);
    assert_true(abs(red_at(directory, 3 * SIDE / 2) - 166) < 6);
    assert_true(abs(red_at(directory, 5 * SIDE / 2) - 128) < 6);

    snprintf(command, sizeof command,
             "ffprobe -v error -count_frames -show_entries stream=width,height,nb_read_frames "
             "-of csv=p=0 %s/comparison.mp4",
             directory);
    run(text, sizeof text, command);
    assert_string_equal(text, "192,64,17\n");
    snprintf(command, sizeof command,
             "ffprobe -v error -show_entries stream=codec_name,width -of csv=p=0 %s/comparison.png",
             directory);
    run(text, sizeof text, command);
    assert_string_equal(text, "png,788\n"); /* four frames of 64 x 3 pixels and five gaps of 4 */

    snprintf(command, sizeof command, "rm -r %s", directory);
    run(text, sizeof text, command);
    struct error error = {0};
    assert_int_equal(comparison_write(directory, &film, a, b, &error), STATUS_IO);
    assert_non_null(strstr(error.text, "comparison.mp4"));
    free(a), free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(psnr_and_ssim_equal_those_of_scikit_image),
        cmocka_unit_test(perceptual_distance_equals_that_of_features_of_diffusers_encoder),
        cmocka_unit_test(every_measure_gets_worse_with_more_noise_blur_or_shift),
        cmocka_unit_test(equal_videos_do_not_differ_and_neither_comes_first),
        cmocka_unit_test(one_bad_frame_shows_in_the_worst_and_little_in_the_whole),
        cmocka_unit_test(results_have_the_same_bits_with_any_number_of_threads),
        cmocka_unit_test(the_distance_has_the_same_bits_within_any_memory),
        cmocka_unit_test(a_step_is_one_latent_frame_and_the_last_one_says_so),
        cmocka_unit_test(sizes_the_encoder_does_not_take_and_a_missing_encoder_are_refused),
        cmocka_unit_test(frames_smaller_than_the_window_have_no_ssim),
        cmocka_unit_test(values_that_are_not_numbers_count_as_black_and_make_the_perceptual_distance_nan),
        cmocka_unit_test(a_comparison_shows_reference_video_and_amplified_difference),
    };
    return cmocka_run_group_tests(tests, trial_make_teams, trial_drop_teams);
}
