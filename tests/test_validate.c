/*
 * test_validate.c - limits on every field, the wire decoder, key files and the table of options.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "base/options.h"
#include "proto/keyfile.h"
#include "proto/validate.h"
#include "proto/wire.h"

#define SET(message, field, value) ((message).has_##field = 1, (message).field = (value))

static Refrain__ModelCard small_card(void)
{
    Refrain__ModelCard card = REFRAIN__MODEL_CARD__INIT;
    card.name = (char *)"small";
    card.pipeline = (char *)"WanPipeline";
    card.layers = 8;
    card.heads = 3;
    card.head_dim = 40;
    card.size_multiple = 32;
    card.frame_multiple = 4;
    card.solver = REFRAIN__SOLVER__SOLVER_EULER;
    card.shift = 3;
    card.default_width = 64;
    card.default_height = 96;
    card.default_frames = 17;
    card.max_position = 64;
    card.vae_scale = 8;
    card.patch = 2;
    card.ffn_dim = 256;
    card.latent_channels = 16;
    return card;
}

/* ---------------------------------------------------------------------------------------------- sentences */

static void every_limit_has_a_sentence_with_field_value_and_limit(void **state)
{
    struct error error;
    const char *field;
#define REFUSES(sentence, blamed, ...)                                                                       \
    do {                                                                                                     \
        Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;                                                     \
        spec.prompt = (char *)"x";                                                                           \
        __VA_ARGS__;                                                                                         \
        assert_int_equal(validate_spec(&spec, &field, &error), STATUS_INVALID);                              \
        assert_string_equal(error.text, sentence);                                                           \
        assert_string_equal(field, blamed);                                                                  \
    } while (0)
    REFUSES("prompt: must be given", "prompt", spec.prompt = NULL);
    REFUSES("prompt: byte 1 (0x80) is not valid UTF-8", "prompt", spec.prompt = (char *)"a\x80");
    REFUSES("negative_prompt: byte 0 (0xc0) is not valid UTF-8", "negative_prompt",
            spec.negative_prompt = (char *)"\xc0\x80");
    REFUSES("width 100: must be a multiple of 16 (96 or 112)", "width", SET(spec, width, 100));
    REFUSES("width 0: must be 16 to 8192", "width", SET(spec, width, 0));
    REFUSES("width 17: must be a multiple of 16 (16 or 32)", "width", SET(spec, width, 17));
    REFUSES("height 8200: must be 16 to 8192", "height", SET(spec, height, 8200));
    REFUSES("height 8191: must be a multiple of 16 (8176 or 8192)", "height", SET(spec, height, 8191));
    REFUSES("frames 16: must be 4 times a number plus 1 (13 or 17)", "frames", SET(spec, frames, 16));
    REFUSES("frames 0: must be 1 to 1025", "frames", SET(spec, frames, 0));
    REFUSES("frames 1029: must be 1 to 1025", "frames", SET(spec, frames, 1029));
    REFUSES("steps 0: must be 1 to 1000", "steps", SET(spec, steps, 0));
    REFUSES("steps 1001: must be 1 to 1000", "steps", SET(spec, steps, 1001));
    REFUSES("guidance nan: must be a finite number", "guidance", SET(spec, guidance, (double)NAN));
    REFUSES("guidance inf: must be a finite number", "guidance", SET(spec, guidance, (double)INFINITY));
    REFUSES("guidance -1: must be 0 to 100", "guidance", SET(spec, guidance, -1));
    REFUSES("guidance_scale_2 nan: must be a finite number", "guidance_scale_2",
            SET(spec, guidance_scale_2, (double)NAN));
    REFUSES("guidance_scale_2 101: must be 0 to 100", "guidance_scale_2", SET(spec, guidance_scale_2, 101));
    REFUSES("shift 0: must be above 0 and at most 100", "shift", SET(spec, shift, 0));
    REFUSES("fps 121: must be 1 to 120", "fps", SET(spec, fps, 121));
    REFUSES("checkpoint_every 1001: must be 0 to 1000", "checkpoint_every",
            SET(spec, checkpoint_every, 1001));
    REFUSES("solver 7: must be 0 to 2", "solver", SET(spec, solver, (Refrain__Solver)7));
    REFUSES("priority 3: must be 0 to 2", "priority", SET(spec, priority, (Refrain__Priority)3));
    REFUSES("deadline_ms 2592000001: must be 0 to 2592000000", "deadline_ms",
            SET(spec, deadline_ms, 2592000001));
    REFUSES("model '../x': only letters, digits, dot, underscore and hyphen are allowed, and no dot first",
            "model", spec.model = (char *)"../x");
    REFUSES("frames 1025: 8192x8192x1025 is 68786585600 pixels, at most 2147483648 are allowed", "frames",
            (SET(spec, width, 8192), SET(spec, height, 8192), SET(spec, frames, 1025)));
}

static void a_prompt_of_16384_bytes_passes_and_one_more_does_not(void **state)
{
    struct error error;
    const char *field;
    char text[LIMIT_PROMPT_BYTES + 2];
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    memset(text, 'x', sizeof text);
    text[LIMIT_PROMPT_BYTES] = '\0';
    spec.prompt = text;
    assert_int_equal(validate_spec(&spec, &field, &error), STATUS_OK);
    text[LIMIT_PROMPT_BYTES] = 'x';
    text[LIMIT_PROMPT_BYTES + 1] = '\0';
    assert_int_equal(validate_spec(&spec, &field, &error), STATUS_INVALID);
    assert_string_equal(error.text, "prompt of 16385 bytes: at most 16384 bytes are allowed");
}

static void utf8_is_what_unicode_says_it_is(void **state)
{
    static const char *const good[] = {
        "", "a", "é", "日本語", "🎬", "\x7f", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xc1\xbf",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xe2\x82",
                                      "\xff",
                                      "a\xc3"};
    struct error error;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        assert_int_equal(validate_text("t", good[i], strlen(good[i]), &error), STATUS_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(validate_text("t", bad[i], strlen(bad[i]), &error), STATUS_INVALID);
    assert_int_equal(validate_text("t", "a\0b", 3, &error), STATUS_INVALID);
    assert_string_equal(error.text, "t: has a zero byte at 1");
}

/* ------------------------------------------------------------------------------------------- with a model */

static void a_model_adds_its_own_multiples_and_positions(void **state)
{
    struct error error;
    const char *field;
    Refrain__ModelCard card = small_card();
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    SET(spec, width, 48);
    assert_int_equal(validate_spec_for_model(&spec, &card, &field, &error), STATUS_INVALID);
    assert_string_equal(error.text, "width 48: must be a multiple of 32 (32 or 64)");
    SET(spec, width, 1056); /* 66 patches of 16 pixels */
    assert_int_equal(validate_spec_for_model(&spec, &card, &field, &error), STATUS_INVALID);
    assert_string_equal(error.text, "width 1056: model small goes up to 1024");
    SET(spec, width, 1024);
    SET(spec, frames, 257); /* 65 latent frames */
    assert_int_equal(validate_spec_for_model(&spec, &card, &field, &error), STATUS_INVALID);
    assert_string_equal(error.text, "frames 257: model small goes up to 253");
    SET(spec, frames, 253);
    assert_int_equal(validate_spec_for_model(&spec, &card, &field, &error), STATUS_OK);
}

static void a_second_guidance_is_for_models_of_two_experts(void **state)
{
    struct error error;
    const char *field = NULL;
    Refrain__ModelCard card = small_card();
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    spec.prompt = (char *)"x";
    SET(spec, guidance_scale_2, 3);
    assert_int_equal(validate_spec_for_model(&spec, &card, &field, &error), STATUS_INVALID);
    assert_string_equal(field, "guidance_scale_2");
    assert_string_equal(error.text,
                        "guidance_scale_2 3: model small has one expert, and this is the guidance of "
                        "a second one");
    SET(card, experts, 2);
    assert_int_equal(validate_card(&card, &error), STATUS_INVALID);
    assert_string_equal(error.text, "train_steps 0: must be 1 to 1000000");
    SET(card, train_steps, 1000);
    assert_int_equal(validate_card(&card, &error), STATUS_INVALID);
    assert_string_equal(error.text, "boundary 0: must be above 0 and at most 1");
    SET(card, boundary, 0.875);
    assert_int_equal(validate_card(&card, &error), STATUS_OK);
    assert_int_equal(validate_spec_for_model(&spec, &card, &field, &error), STATUS_OK);

    Refrain__JobSpec without = REFRAIN__JOB_SPEC__INIT;
    SET(without, guidance, 4);
    assert_int_equal(validate_fill(&without, &card, &error), STATUS_OK);
    assert_true(without.has_guidance_scale_2 && without.guidance_scale_2 == 4); /* as diffusers */
    free(without.model);
    free(without.cache);
    free(without.negative_prompt);
    SET(card, experts, 3);
    assert_int_equal(validate_card(&card, &error), STATUS_INVALID);
    assert_string_equal(error.text, "experts 3: must be 0 to 2");
}

static void defaults_come_from_the_model_and_given_values_stay(void **state)
{
    struct error error;
    Refrain__ModelCard card = small_card();
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    SET(spec, steps, 7);
    SET(spec, solver, REFRAIN__SOLVER__SOLVER_MODEL_DEFAULT);
    assert_int_equal(validate_fill(&spec, &card, &error), STATUS_OK);
    assert_int_equal(spec.steps, 7);
    assert_int_equal(spec.width, 64);
    assert_int_equal(spec.height, 96);
    assert_int_equal(spec.frames, 17);
    assert_int_equal(spec.checkpoint_every, 1);
    assert_int_equal(spec.solver, REFRAIN__SOLVER__SOLVER_EULER);
    assert_true(spec.shift == 3 && spec.guidance == 5 && !spec.has_guidance_scale_2);
    assert_string_equal(spec.model, "small");
    assert_string_equal(spec.negative_prompt, "");
    free(spec.model);
    assert_string_equal(spec.cache, "off");
    assert_true(spec.has_compare && !spec.compare);
    free(spec.cache);
    free(spec.negative_prompt);
}

static void a_card_with_a_zero_that_would_divide_is_refused(void **state)
{
    struct error error;
    Refrain__ModelCard card = small_card();
    assert_int_equal(validate_card(&card, &error), STATUS_OK);
    card.patch = 0;
    assert_int_equal(validate_card(&card, &error), STATUS_INVALID);
    assert_string_equal(error.text, "patch 0: must be 1 to 64");
    card = small_card();
    card.shift = NAN;
    assert_int_equal(validate_card(&card, &error), STATUS_INVALID);
}

/* --------------------------------------------------------------------------------------------------- wire */

static status_t unpack(const void *bytes, size_t length, uint64_t *id, struct error *error)
{
    Refrain__Request *request = NULL;
    status_t status = wire_unpack_request(bytes, length, &request, id, error);
    if (status == STATUS_OK)
        refrain__request__free_unpacked(request, NULL);
    else
        assert_null(request);
    return status;
}

static void the_version_is_read_before_anything_is_believed(void **state)
{
    struct error error;
    uint64_t id = 0;
    assert_int_equal(unpack("\x10\x07\x08\x02", 4, &id, &error), STATUS_UNSUPPORTED);
    assert_string_equal(error.text, "version 2: this side speaks protocol version 1");
    assert_int_equal(id, 7);
    assert_int_equal(unpack("", 0, &id, &error), STATUS_CORRUPT);
    assert_int_equal(unpack("\x10\x07", 2, &id, &error), STATUS_CORRUPT);
    /* The id is known even when what follows is broken. */
    id = 0;
    assert_int_equal(unpack("\x08\x01\x10\x09\x52\x7f", 6, &id, &error), STATUS_CORRUPT);
    assert_int_equal(id, 9);
}

static void texts_are_checked_wherever_they_stand(void **state)
{
    struct error error;
    uint64_t id;
    /* Request{version 1, submit{spec{prompt "a\0b"}}} */
    assert_int_equal(unpack("\x08\x01\x52\x07\x0a\x05\x12\x03"
                            "a\0b",
                            11, &id, &error),
                     STATUS_INVALID);
    assert_string_equal(error.text, "prompt: has a zero byte at 1");
    assert_int_equal(unpack("\x08\x01\x52\x06\x0a\x04\x12\x02"
                            "a\xff",
                            10, &id, &error),
                     STATUS_INVALID);
    assert_string_equal(error.text, "prompt: byte 1 (0xff) is not valid UTF-8");
    assert_int_equal(unpack("\x08\x01\x52\x07\x0a\x05\x12\x03"
                            "abc",
                            11, &id, &error),
                     STATUS_OK);
}

static void a_frame_of_empty_messages_does_not_unfold_into_gigabytes(void **state)
{
    /* WorkerReport{version 1, hello{running{} running{} ...}}: 2 bytes each, some 50 unpacked. */
    enum { COUNT = 2000000 };
    uint8_t *frame = malloc(16 + 2 * COUNT);
    struct error error;
    Refrain__WorkerReport *report;
    assert_non_null(frame);
    uint8_t *at = frame;
    *at++ = 0x08, *at++ = 0x01, *at++ = 0x52;
    for (uint32_t left = 2 * COUNT; left; left >>= 7)
        *at++ = (uint8_t)((left & 0x7f) | (left > 0x7f ? 0x80 : 0));
    for (int i = 0; i < COUNT; i++) *at++ = 0x6a, *at++ = 0x00;
    assert_int_equal(wire_unpack_report(frame, (size_t)(at - frame), &report, &error), STATUS_CORRUPT);
    free(frame);
}

static void a_list_of_short_jobs_unfolds(void **state)
{
    enum { COUNT = 1000 };
    Refrain__JobList list = REFRAIN__JOB_LIST__INIT;
    Refrain__Reply reply = REFRAIN__REPLY__INIT, *read;
    Refrain__Job *jobs = malloc(COUNT * sizeof *jobs), **pointers = malloc(COUNT * sizeof *pointers);
    Refrain__JobSpec spec = REFRAIN__JOB_SPEC__INIT;
    Refrain__Progress progress = REFRAIN__PROGRESS__INIT;
    Refrain__JobTimes times = REFRAIN__JOB_TIMES__INIT;
    zmq_msg_t frame;
    struct error error;
    assert_true(jobs && pointers);
    for (int i = 0; i < COUNT; i++) { /* the sparsest there can be */
        refrain__job__init(&jobs[i]);
        jobs[i].spec = &spec;
        jobs[i].progress = &progress;
        jobs[i].times = &times;
        SET(jobs[i], job, (uint64_t)i + 1);
        pointers[i] = &jobs[i];
    }
    list.n_jobs = COUNT;
    list.jobs = pointers;
    reply.body_case = REFRAIN__REPLY__BODY_JOBS;
    reply.jobs = &list;
    wire_stamp(reply);
    assert_int_equal(wire_pack(&reply.base, &frame, &error), STATUS_OK);
    if (wire_unpack_reply(zmq_msg_data(&frame), zmq_msg_size(&frame), &read, &error))
        fail_msg("%s", error.text);
    assert_int_equal(read->jobs->n_jobs, COUNT);
    refrain__reply__free_unpacked(read, NULL);
    zmq_msg_close(&frame);
    free(pointers);
    free(jobs);
}

/* ---------------------------------------------------------------------------------------------- key files */

static void a_key_file_reads_back_and_an_open_secret_is_refused(void **state)
{
    char path[] = "refrain-key.XXXXXX";
    struct error error;
    struct keyfile made = {.role = ROLE_ADMIN}, read;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(keyfile_generate(&made, &error), STATUS_OK);
    assert_int_equal(keyfile_write(path, &made, &error), STATUS_CONFLICT); /* never over another */
    unlink(path);
    assert_int_equal(keyfile_write(path, &made, &error), STATUS_OK);
    assert_int_equal(keyfile_read(path, &read, &error), STATUS_OK);
    assert_string_equal(read.public_key, made.public_key);
    assert_string_equal(read.secret_key, made.secret_key);
    assert_int_equal(read.role, ROLE_ADMIN);
    assert_int_equal(chmod(path, 0644), 0);
    assert_int_equal(keyfile_read(path, &read, &error), STATUS_DENIED);
    assert_non_null(strstr(error.text, "chmod 600"));
    FILE *file = fopen(path, "w");
    fputs("public-key = \"too short\"\n", file);
    fclose(file);
    assert_int_equal(keyfile_read(path, &read, &error), STATUS_INVALID);
    assert_null(strstr(error.text, "too short")); /* it may be a secret */
    unlink(path);
}

/* ------------------------------------------------------------------------------------------------ options */

struct sample {
    const char *text, *config;
    int64_t count, time_ms, bytes;
    double real;
    uint64_t seed;
    int choice;
    bool flag;
};

static const struct option_spec sample_specs[] = {
    {.help = "Sample"},
    {"text", 't', OPTION_TEXT, offsetof(struct sample, text), .standard = "standard",
     .env = "REFRAIN_TEST_TEXT"},
    {"config", 0, OPTION_CONFIG, offsetof(struct sample, config), .help = "file"},
    {"count", 'n', OPTION_INT, offsetof(struct sample, count), .min = 1, .max = 9, .help = "how many"},
    {"time", 0, OPTION_DURATION, offsetof(struct sample, time_ms), .help = "how long"},
    {"bytes", 0, OPTION_BYTES, offsetof(struct sample, bytes), .help = "how much"},
    {"real", 0, OPTION_REAL, offsetof(struct sample, real), .help = "how"},
    {"seed", 0, OPTION_UINT64, offsetof(struct sample, seed), .help = "which", .groups = 1},
    {"choice", 0, OPTION_CHOICE, offsetof(struct sample, choice), .choices = "unipc|euler", .help = "what"},
    {"flag", 'f', OPTION_FLAG, offsetof(struct sample, flag), .help = "whether"},
};
static const struct option_table sample_table = {"sample", sample_specs,
                                                 sizeof sample_specs / sizeof *sample_specs};

/* Parses the words of `line` for verb group 1. */
static status_t parse(const char *line, unsigned group, struct sample *sample, struct options **options,
                      struct error *error)
{
    static char copy[512], *argv[16]; /* values and operands point into them */
    char *rest = copy;
    int argc = 0;
    argv[argc++] = (char *)"sample";
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word; argc < 15 && (word = strsep(&rest, " "));)
        if (*word) argv[argc++] = word;
    argv[argc] = NULL;
    *sample = (struct sample){0};
    return options_parse(&sample_table, group, argc, argv, sample, options, error);
}

static void options_read_every_type_and_refuse_what_is_not_one(void **state)
{
    static const struct {
        const char *line, *sentence;
    } wrong[] = {
        {"--count 10", "--count 10: must be 1 to 9"},
        {"--count 1x", "--count '1x': must be a whole number"},
        {"--count", "--count: needs a value"},
        {"--real nan", "--real nan: must be finite"},
        {"--seed -1", "--seed '-1': must be a whole number from 0 up"},
        {"--seed 18446744073709551616", "--seed 18446744073709551616: must be below 2^64"},
        {"--time 5x", "--time '5x': must be a duration such as 90s, 10m or 1h30m"},
        {"--bytes 3Q", "--bytes '3Q': must be bytes such as 512M or 4G"},
        {"--choice uni", "--choice 'uni': must be one of unipc|euler"},
        {"--wrong", "--wrong: no such option; see --help"},
        {"-x", "-x: no such option; see --help"},
    };
    struct sample sample;
    struct options *options;
    struct error error;
    assert_int_equal(
        parse("-n 3 --time 1h30m --bytes 2M --real 0.5 --seed 18446744073709551615 --choice euler -f rest", 1,
              &sample, &options, &error),
        STATUS_OK);
    assert_int_equal(sample.count, 3);
    assert_int_equal(sample.time_ms, 5400000);
    assert_int_equal(sample.bytes, 2 << 20);
    assert_true(sample.real == 0.5 && sample.seed == UINT64_MAX && sample.choice == 1 && sample.flag);
    assert_string_equal(sample.text, "standard");
    assert_false(options_given(options, "text"));
    assert_true(options_given(options, "seed"));
    assert_int_equal(options_operand_count(options), 1);
    assert_string_equal(options_operand(options, 0), "rest");
    options_destroy(options);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(parse(wrong[i].line, 1, &sample, &options, &error), STATUS_INVALID);
        assert_string_equal(error.text, wrong[i].sentence);
    }
    /* An option of another verb does not exist for this one. */
    assert_int_equal(parse("--seed 1", 2, &sample, &options, &error), STATUS_INVALID);
}

static void flags_win_over_environment_over_file_over_default(void **state)
{
    char path[] = "refrain-options.XXXXXX", line[128];
    struct sample sample;
    struct options *options;
    struct error error;
    int fd = mkstemp(path);
    static const char config[] = "# a comment\n text = \"from file\" \ncount = 4\nflag = yes\n";
    assert_int_equal(write(fd, config, sizeof config - 1), sizeof config - 1);
    close(fd);
    snprintf(line, sizeof line, "--config %s", path);
    assert_int_equal(parse(line, 1, &sample, &options, &error), STATUS_OK);
    assert_string_equal(sample.text, "from file");
    assert_true(sample.count == 4 && sample.flag && options_given(options, "count"));
    options_destroy(options);
    setenv("REFRAIN_TEST_TEXT", "from environment", 1);
    assert_int_equal(parse(line, 1, &sample, &options, &error), STATUS_OK);
    assert_string_equal(sample.text, "from environment");
    options_destroy(options);
    snprintf(line, sizeof line, "--config %s -t flag -n 5", path);
    assert_int_equal(parse(line, 1, &sample, &options, &error), STATUS_OK);
    assert_string_equal(sample.text, "flag");
    assert_int_equal(sample.count, 5);
    options_destroy(options);
    unsetenv("REFRAIN_TEST_TEXT");
    assert_int_equal(truncate(path, 0), 0);
    FILE *file = fopen(path, "w");
    fputs("count = 4\ncount = 40\n", file);
    fclose(file);
    assert_int_equal(parse(line, 1, &sample, &options, &error), STATUS_INVALID);
    assert_non_null(strstr(error.text, "line 2: count 40: must be 1 to 9"));
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_limit_has_a_sentence_with_field_value_and_limit),
        cmocka_unit_test(a_prompt_of_16384_bytes_passes_and_one_more_does_not),
        cmocka_unit_test(utf8_is_what_unicode_says_it_is),
        cmocka_unit_test(a_model_adds_its_own_multiples_and_positions),
        cmocka_unit_test(a_second_guidance_is_for_models_of_two_experts),
        cmocka_unit_test(defaults_come_from_the_model_and_given_values_stay),
        cmocka_unit_test(a_card_with_a_zero_that_would_divide_is_refused),
        cmocka_unit_test(the_version_is_read_before_anything_is_believed),
        cmocka_unit_test(texts_are_checked_wherever_they_stand),
        cmocka_unit_test(a_frame_of_empty_messages_does_not_unfold_into_gigabytes),
        cmocka_unit_test(a_list_of_short_jobs_unfolds),
        cmocka_unit_test(a_key_file_reads_back_and_an_open_secret_is_refused),
        cmocka_unit_test(options_read_every_type_and_refuse_what_is_not_one),
        cmocka_unit_test(flags_win_over_environment_over_file_over_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
