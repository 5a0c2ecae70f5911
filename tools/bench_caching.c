/*
 * bench_caching.c - what each way of caching costs and saves on a model: time of denoising against the
 * uncached run of the same prompt and seed, and how far the video is from it.
 *
 *     bench_caching MODEL STEPS PROMPTS SETTINGS [SEEDS [THREADS]] > rows.csv
 *
 * PROMPTS: a file with one prompt a line. SETTINGS: lines "family|label|text", text as for --cache; "steps=N"
 * stands for no caching and N steps: what anybody could do instead. Jobs run one after the other in this
 * process, all blocks on one member, so that times are times of computing; the uncached run is repeated
 * between the settings and ratios are taken within one prompt and seed. tools/bench_caching.py makes tables
 * and plots of the rows.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/caching.h"
#include "worker/job.h"
#include "worker/model/tables.h"
#include "worker/quality.h"

enum { MOST_LINES = 256, UNCACHED_EVERY = 12 };

struct setting {
    char family[32], label[64], text[512];
};

struct bench {
    struct engine engine;
    struct job_order order;
    struct cache_table tables[LIMIT_JOB_TABLES]; /* of the model's own directory */
    struct vae *encoder;
    struct video_size size;
    float *reference, *video;
    int64_t floats;
};

struct outcome {
    double seconds;
    int computed, cells;
};

static void die(const struct error *error)
{
    fprintf(stderr, "bench_caching: %s\n", error->text);
    exit(1);
}

static int read_lines(const char *path, char lines[MOST_LINES][1024])
{
    FILE *file = fopen(path, "r");
    int count = 0;
    if (!file) {
        fprintf(stderr, "bench_caching: %s: cannot be opened\n", path);
        exit(1);
    }
    while (count < MOST_LINES && fgets(lines[count], 1024, file)) {
        lines[count][strcspn(lines[count], "\r\n")] = 0;
        if (lines[count][0] && lines[count][0] != '#') count++;
    }
    fclose(file);
    return count;
}

static struct outcome run(struct bench *b, const char *cache, int steps, float *frames)
{
    struct job *job;
    struct error error;
    struct job_order order = b->order;
    struct job_cache report;
    order.cache = cache;
    order.steps = steps;
    if (job_create(&b->engine, &order, "/nowhere", &job, &error) != STATUS_OK) die(&error);
    while (job_advance(job) != JOB_FINISHED && !job_frames(job)) continue; /* no files are wanted */
    if (!job_frames(job)) {
        job_outcome(job, &error);
        die(&error);
    }
    struct outcome o = {.seconds = job_status(job)->denoise_seconds, .computed = 1, .cells = 1};
    if (job_cache(job, &report)) {
        o.computed = report.report.computed;
        o.cells = report.report.steps * report.report.branches;
    }
    memcpy(frames, job_frames(job), (size_t)b->floats * sizeof *frames);
    job_destroy(job);
    return o;
}

static void run_setting(struct bench *b, const struct setting *s, int prompt, int seed, int steps,
                        double uncached)
{
    struct quality q;
    struct error error;
    int fewer = strncmp(s->text, "steps=", 6) == 0 ? atoi(s->text + 6) : 0;
    struct outcome o = run(b, fewer ? "off" : s->text, fewer ? fewer : steps, b->video);
    if (quality_measure(b->encoder, b->engine.team, b->reference, b->video, b->size.frames, b->size.height,
                        b->size.width, &q, &error) != STATUS_OK)
        die(&error);
    printf("%d,%d,%d,\"%s\",\"%s\",\"%s\",%.6f,%.6f,%d,%d,%.4f,%.4f,%.6f,%.6f\n", steps, prompt, seed,
           s->family, s->label, s->text, o.seconds, uncached, o.computed, o.cells, q.psnr, q.psnr_worst,
           q.ssim, q.perceptual);
    fflush(stdout);
}

static void run_pair(struct bench *b, const struct setting *settings, int count, int prompt, int seed,
                     int steps)
{
    double uncached = 0;
    for (int i = 0; i < count; i++) {
        if (i % UNCACHED_EVERY == 0) uncached = run(b, "off", steps, b->reference).seconds;
        run_setting(b, &settings[i], prompt, seed, steps, uncached);
    }
}

/* Texts and values stay as long as the process. */
static void take_tables(struct bench *b, const char *model, const struct model_config *config, int steps)
{
    json_t *list, *item;
    size_t i;
    struct error error;
    if (tables_read(model, config, &list, &error) != STATUS_OK) die(&error);
    json_array_foreach(list, i, item)
    {
        struct cache_table *t = &b->tables[b->order.table_count];
        json_t *values = json_object_get(item, "values");
        int made_at = (int)json_integer_value(json_object_get(item, "steps"));
        if (b->order.table_count == LIMIT_JOB_TABLES) break;
        if (made_at && made_at != steps) continue;
        double *numbers = malloc((json_array_size(values) + 1) * sizeof *numbers);
        for (size_t k = 0; k < json_array_size(values); k++)
            numbers[k] = json_number_value(json_array_get(values, k));
        *t = (struct cache_table){.kind = json_string_value(json_object_get(item, "kind")),
                                  .name = json_string_value(json_object_get(item, "name")),
                                  .steps = made_at,
                                  .shift = json_number_value(json_object_get(item, "shift")),
                                  .width = (int)json_integer_value(json_object_get(item, "width")),
                                  .count = (int)json_array_size(values),
                                  .values = numbers};
        b->order.table_count++;
    }
    b->order.tables = b->tables;
}

static void set_up(struct bench *b, const char *model, int steps, int threads)
{
    struct error error;
    struct model_config config;
    struct split split = {.members = 1};
    if (model_config_read(model, &config, &error) != STATUS_OK) die(&error);
    split.head = config.denoiser.layers;
    b->engine = (struct engine){.ops = ops_find("auto"), .members = 1};
    if (team_create(threads, &b->engine.team, &error) != STATUS_OK ||
        b->engine.ops->open(b->engine.team, &error) != STATUS_OK ||
        model_load(model, b->engine.ops, b->engine.team, &split, 0, &b->engine.model, &error) != STATUS_OK ||
        model_encoder(b->engine.model, &b->encoder, &error) != STATUS_OK)
        die(&error);
    b->size = (struct video_size){config.clip.frames, config.clip.width, config.clip.height, 16};
    b->floats = (int64_t)3 * b->size.frames * b->size.width * b->size.height;
    b->reference = malloc((size_t)b->floats * sizeof(float));
    b->video = malloc((size_t)b->floats * sizeof(float));
    b->order = (struct job_order){.job = 1,
                                  .attempt = 1,
                                  .width = b->size.width,
                                  .height = b->size.height,
                                  .frames = b->size.frames,
                                  .fps = 16,
                                  .guidance = 4,
                                  .shift = config.solver.shift,
                                  .solver = config.solver.kind};
    take_tables(b, model, &config, steps);
}

int main(int argc, char **argv)
{
    static char prompts[MOST_LINES][1024], lines[MOST_LINES][1024];
    static struct setting settings[MOST_LINES];
    static struct bench b;
    if (argc < 5) {
        fprintf(stderr, "usage: bench_caching MODEL STEPS PROMPTS SETTINGS [SEEDS [THREADS]]\n");
        return 2;
    }
    int steps = atoi(argv[2]), prompt_count = read_lines(argv[3], prompts),
        count = read_lines(argv[4], lines);
    int seeds = argc > 5 ? atoi(argv[5]) : 2, threads = argc > 6 ? atoi(argv[6]) : 2;
    for (int i = 0; i < count; i++)
        if (sscanf(lines[i], "%31[^|]|%63[^|]|%511[^\n]", settings[i].family, settings[i].label,
                   settings[i].text) != 3) {
            fprintf(stderr, "bench_caching: %s: not family|label|text\n", lines[i]);
            return 2;
        }
    set_up(&b, argv[1], steps, threads);
    printf("steps,prompt,seed,family,label,text,seconds,uncached,computed,cells,psnr,psnr_worst,ssim,"
           "perceptual\n");
    for (int p = 0; p < prompt_count; p++)
        for (int s = 0; s < seeds; s++) {
            b.order.prompt = prompts[p];
            b.order.seed = (uint64_t)(100 * s + p);
            run_pair(&b, settings, count, p, s, steps);
            fprintf(stderr, "\rprompt %d of %d, seed %d ", p + 1, prompt_count, s);
        }
    fputc('\n', stderr);
    engine_clear(&b.engine);
    model_destroy(b.engine.model);
    b.engine.ops->close(b.engine.team);
    team_destroy(b.engine.team);
    return 0;
}
