/*
 * fuzz_model.c - libFuzzer over the files of a model's directory: configurations, calibration tables, tokenizers; and over
 * prompts. Each is refused with a sentence, or what was read can be worked with.
 *
 * The first byte chooses the file that the rest becomes, all others are the reference model's; or it is a prompt.
 */
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client/planmodel.h"
#include "worker/model/config.h"
#include "worker/model/tables.h"
#include "worker/model/tokenizer.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CONFIGS = 7, TABLES = 7, TOKENIZERS = 8, FILES = 11, IDS = 64 };

static const char *const folders[] = {"",           "/scheduler",   "/text_encoder",
                                      "/tokenizer", "/transformer", "/vae"};
/* Configurations, tables, and a tokenizer's: that with tokenizer.json reads no spiece.model. */
static const char *const files[FILES] = {"model_index.json",
                                         "scheduler/scheduler_config.json",
                                         "text_encoder/config.json",
                                         "transformer/config.json",
                                         "transformer_2/config.json",
                                         "vae/config.json",
                                         "refrain.json",
                                         "refrain-tables.json",
                                         "tokenizer/tokenizer.json",
                                         "tokenizer/tokenizer_config.json",
                                         "tokenizer/spiece.model"};
static char directory[] = "/tmp/refrain-fuzz-XXXXXX", reference[PATH_MAX];

static const char *path_of(const char *below, const char *name)
{
    static char path[2 * PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", below, name);
    return path;
}

/* The model's own file again, if it has one. */
static void put_back(const char *name)
{
    char original[2 * PATH_MAX];
    snprintf(original, sizeof original, "%s", path_of(reference, name));
    unlink(path_of(directory, name));
    if (access(original, F_OK) == 0 && symlink(original, path_of(directory, name)) != 0) abort();
}

static void clean_up(void)
{
    for (int i = 0; i < FILES; i++) unlink(path_of(directory, files[i]));
    rmdir(path_of(directory, "transformer_2"));
    for (size_t i = sizeof folders / sizeof *folders; i-- > 0;) rmdir(path_of(directory, folders[i]));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    if (!realpath("models/reference", reference) || !mkdtemp(directory)) abort();
    for (size_t i = 1; i < sizeof folders / sizeof *folders; i++)
        if (mkdir(path_of(directory, folders[i]), 0700) != 0) abort();
    if (mkdir(path_of(directory, "transformer_2"), 0700) != 0) abort();
    for (int i = 0; i < FILES; i++) put_back(files[i]);
    return atexit(clean_up);
}

static void put(const char *name, const uint8_t *data, size_t size)
{
    unlink(path_of(directory, name));
    FILE *file = fopen(path_of(directory, name), "w");
    if (!file || fwrite(data, 1, size, file) != size || fclose(file) != 0) abort();
}

static void must_say_why(status_t status, const struct error *error)
{
    if (status != STATUS_OK && error->text[0] == 0) abort();
}

/* What the planner makes of it are numbers, whatever it says. */
static void read_config(void)
{
    struct error error = {0};
    struct planner_model model;
    struct planmodel_clip clip;
    status_t status = planmodel_find(directory, &model, &clip, &error);
    must_say_why(status, &error);
    if (status != STATUS_OK) return;
    struct planner_job job = {.branches = 2};
    planner_steps(&model, 50, 2, &job);
    if (job.steps[0] + job.steps[1] != 50 || planner_block_bytes(&model) == 0) abort();
    if (planner_size(&model, clip.width, clip.height, clip.frames, &job, &error) == STATUS_OK &&
        !(planner_block_flops(&model, job.tokens) > 0))
        abort();
}

static void read_tables(void)
{
    struct error error = {0};
    struct model_config config;
    json_t *tables = NULL;
    if (model_config_read(directory, &config, &error) != STATUS_OK) abort();
    status_t status = tables_read(directory, &config, &tables, &error);
    must_say_why(status, &error);
    if (status == STATUS_OK && !json_is_array(tables)) abort();
    if (status == STATUS_OK) json_decref(tables);
}

static void encode(const struct tokenizer *tokenizer, const char *prompt)
{
    struct error error = {0};
    int32_t ids[IDS];
    int count;
    status_t status = tokenizer_encode(tokenizer, prompt, IDS, ids, &count, &error);
    must_say_why(status, &error);
    if (status != STATUS_OK) return;
    if (count < 0 || count > IDS) abort();
    for (int i = 0; i < count; i++)
        if (ids[i] < 0 || ids[i] >= tokenizer_vocabulary(tokenizer)) abort();
}

static struct tokenizer *open_tokenizer(void)
{
    struct error error = {0};
    struct tokenizer *tokenizer;
    char path[sizeof directory + 16];
    snprintf(path, sizeof path, "%s/tokenizer", directory);
    status_t status = tokenizer_open(path, &tokenizer, &error);
    must_say_why(status, &error);
    return status == STATUS_OK ? tokenizer : NULL;
}

static void read_tokenizer(void)
{
    static const char *const prompts[] = {
        "", "a large red star",
        "  Ａ\u0301ｂ…\t\"qu\u00adick\"  ﬁne\n\U0001F468\u200d\U0001F469 </s><pad> 日本",
        "\x01\xe2\x96\x81\xe2\x96\x81"};
    struct tokenizer *tokenizer = open_tokenizer();
    for (size_t i = 0; tokenizer && i < sizeof prompts / sizeof *prompts; i++) encode(tokenizer, prompts[i]);
    tokenizer_close(tokenizer);
}

static void read_prompt(const uint8_t *data, size_t size)
{
    static struct tokenizer *tokenizer; /* the reference model's */
    char *prompt = malloc(size + 1);
    if (!tokenizer) tokenizer = open_tokenizer();
    if (!tokenizer || !prompt) abort();
    memcpy(prompt, data, size);
    prompt[size] = 0;
    encode(tokenizer, prompt);
    free(prompt);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    int file = data[0] % (FILES + 1);
    if (file == FILES) {
        read_prompt(data + 1, size - 1);
        return 0;
    }
    if (file > TOKENIZERS) unlink(path_of(directory, files[TOKENIZERS]));
    put(files[file], data + 1, size - 1);
    if (file < CONFIGS)
        read_config();
    else if (file == TABLES)
        read_tables();
    else
        read_tokenizer();
    put_back(files[file]);
    if (file > TOKENIZERS) put_back(files[TOKENIZERS]);
    return 0;
}
