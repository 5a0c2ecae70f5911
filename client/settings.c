/* settings.c - see settings.h. Runs before anything else does; reads files that the person named, and
 * standard input. */
#include "client/settings.h"

#include "cache/settings.h"
#include "proto/validate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define AT(field)  offsetof(struct settings, field)
#define COUNT(all) (sizeof(all) / sizeof *(all))

enum { PREVIEW_STANDARD = 5 };

enum {
    MAKES_ONE = VERB_GENERATE | VERB_SUBMIT | VERB_COMPARE, /* a video */
    MAKES = MAKES_ONE | VERB_CALIBRATE,                     /* videos */
    SAVES = MAKES_ONE | VERB_RESULT,                        /* files of a job */
    PLANS = VERB_PLAN | VERB_MEASURE,                       /* of what may come */
    STARTS = VERB_GENERATE | VERB_COMPARE | VERB_CALIBRATE, /* a coordinator of its own, if none is named */
    TALKS = ~(VERB_KEYGEN | VERB_POLICIES | VERB_PLAN),     /* to a coordinator that is there already */
    BRANCHES = VERB_GENERATE | VERB_SUBMIT,                 /* goes on from another job */
    SHOWS = ~0,
};

static const struct option_spec specs[] = {
    {.type = OPTION_HEADING, .help = "The video", .groups = MAKES | PLANS},
    {"model", 'm', OPTION_TEXT, AT(model), "DIR-or-NAME",
     "a checkpoint directory in diffusers' layout, or a name from `refrain models` (default: submit takes "
     "the "
     "only model there is, generate the small reference model; plan: a directory of which only the JSON "
     "files are "
     "read, or a published size such as wan2.1-t2v-14b)",
     .env = "REFRAIN_MODEL", .groups = MAKES | PLANS},
    {"prompt", 'p', OPTION_TEXT, AT(prompt), "TEXT",
     "what to show, in UTF-8; @FILE reads it from a file, - from standard input", .groups = MAKES_ONE},
    {"negative", 'n', OPTION_TEXT, AT(negative), "TEXT", "what not to show (default: nothing)",
     .groups = MAKES},
    {"seed", 's', OPTION_UINT64, AT(seed), "N", "the same seed gives the same video (default 0)",
     .groups = MAKES},
    {"steps", 0, OPTION_INT, AT(steps), "N", "denoising steps (default 50)", .min = 1, .max = LIMIT_STEPS,
     .groups = MAKES | VERB_PLAN},
    {"guidance", 'g', OPTION_REAL, AT(guidance), "X",
     "how closely to follow the prompt; 1 or less: off (default 5)", .min = 0, .max = LIMIT_GUIDANCE,
     .groups = MAKES | VERB_PLAN},
    {"guidance-2", 0, OPTION_REAL, AT(guidance_2), "X",
     "the same for the steps that the second of two experts makes (default: --guidance)", .min = 0,
     .max = LIMIT_GUIDANCE, .groups = MAKES},
    {"width", 0, OPTION_INT, AT(width), "N", "pixels, a multiple of 16 (default: the model's)",
     .groups = MAKES | VERB_PLAN},
    {"height", 0, OPTION_INT, AT(height), "N", "pixels, a multiple of 16 (default: the model's)",
     .groups = MAKES | VERB_PLAN},
    {"frames", 0, OPTION_INT, AT(frames), "N", "4n + 1 (default: the model's)", .groups = MAKES | VERB_PLAN},
    {"size", 0, OPTION_TEXT, AT(size), "WxHxF",
     "width, height and frames in one, such as 832x480x81; measure takes several, with commas between",
     .groups = MAKES | PLANS},
    {"solver", 0, OPTION_CHOICE, AT(solver), .choices = "unipc|euler",
     .help = "how the steps are taken (default: the model's)", .groups = MAKES | VERB_PLAN},
    {"shift", 0, OPTION_REAL, AT(shift), "X",
     "flow shift: larger values spend more steps on the coarse shape; above 0 (default: the model's)",
     .min = 0, .max = LIMIT_SHIFT, .groups = MAKES | VERB_PLAN},
    {"fps", 0, OPTION_INT, AT(fps), "N", "frames a second in the video file (default 16)", .min = 1,
     .max = LIMIT_FPS, .groups = MAKES},

    {"cache", 0, OPTION_TEXT, AT(cache), "TEXT",
     "what may be reused between steps: off, safe, balanced, fast, or a policy with parameters such as "
     "dbcache:F1B0,threshold=0.12,forecast=taylor1; `refrain policies` lists all (default: off; compare: "
     "balanced)",
     .groups = MAKES_ONE},
    {"cache-table", 0, OPTION_TEXT, AT(cache_table), "FILE.json",
     "calibration tables for the policy, made by `refrain calibrate` (default: those of the model, then the "
     "published ones)",
     .groups = MAKES_ONE},

    {.type = OPTION_HEADING, .help = "The calibration", .groups = VERB_CALIBRATE},
    {"kind", 'k', OPTION_CHOICE, AT(kind), .choices = "all|magcache|teacache|sencache|l2p",
     .help = "which tables to make", .standard = "all", .groups = VERB_CALIBRATE},
    {"prompts", 0, OPTION_TEXT, AT(prompts), "FILE",
     "a prompt on each line; a job is run for each (default: four of our own)", .groups = VERB_CALIBRATE},

    {.type = OPTION_HEADING, .help = "Files", .groups = SAVES | VERB_CALIBRATE | VERB_MEASURE},
    {"output", 'o', OPTION_TEXT, AT(output), "FILE",
     "where the video goes, with a contact sheet FILE.png beside it; submit then waits for the job "
     "(generate, compare and result: default runs/<number>.mp4); calibrate: where the tables go, beside "
     "those that are there (default " TABLEFILE_NAME "); measure: where the times go (default "
     "refrain-times.json)",
     .groups = SAVES | VERB_CALIBRATE | VERB_MEASURE},
    {"save-latents", 0, OPTION_TEXT, AT(save_latents), "FILE.safetensors",
     "also keep the latents before decoding: f32 [1,16,T,h,w] named `latents`", .groups = SAVES},
    {"save-frames", 0, OPTION_TEXT, AT(save_frames), "FILE.safetensors",
     "also keep the frames before encoding: f32 [1,F,3,H,W] in 0...1 named `frames`", .groups = SAVES},

    {"preview", 0, OPTION_TEXT, AT(preview), "FILE.png",
     "while the job is watched, the first frame as the video looks so far, anew with every preview",
     .groups = MAKES_ONE | VERB_WATCH},

    {.type = OPTION_HEADING, .help = "The job", .groups = MAKES},
    {"wait", 'w', OPTION_FLAG, AT(wait), .help = "show progress until the job has ended",
     .groups = VERB_SUBMIT},
    {"priority", 0, OPTION_CHOICE, AT(priority), .choices = "low|normal|high",
     .help = "who goes first in the queue", .standard = "normal", .groups = MAKES_ONE},
    {"deadline", 0, OPTION_DURATION, AT(deadline_ms), "TIME",
     "give the job up if it has not finished by then, such as 90s, 10m, 1h30m (default: never)", .min = 1,
     .max = LIMIT_DEADLINE_MS, .groups = MAKES_ONE | VERB_PLAN},
    {"strict", 0, OPTION_FLAG, AT(strict),
     .help = "with --deadline: have the job refused if it is not expected to be done by then",
     .groups = MAKES_ONE},
    {"checkpoint-every", 0, OPTION_INT, AT(checkpoint_every), "N",
     "keep a checkpoint every so many steps, from which the job goes on when ranks are lost; 0: none "
     "(default 1)",
     .min = 0, .max = LIMIT_CHECKPOINT_EVERY, .groups = MAKES_ONE},
    {"resume-from", 0, OPTION_UINT64, AT(resume_from), "JOB",
     "go on from a checkpoint of a job of yours: what is not said is as there, and model, seed, steps, size, "
     "solver and "
     "shift cannot be others; prompt, guidance and --cache hold for the steps after it; generate: on the "
     "coordinator that has it",
     .groups = BRANCHES},
    {"at-step", 0, OPTION_TEXT, AT(at_step), "K",
     "so many steps are that job's; END: all, and only the files are made, with other --fps, --save-frames "
     "... (default "
     "END)",
     .groups = BRANCHES},
    {"preview-every", 0, OPTION_INT, AT(preview_every), "N",
     "steps between previews for those who watch the job; costs a decoded frame each, and changes no bit "
     "(default: 5 "
     "with --preview, else none)",
     .min = 0, .max = LIMIT_STEPS, .groups = MAKES_ONE},
    {"recompute", 0, OPTION_FLAG, AT(recompute), .env = "REFRAIN_RECOMPUTE",
     .help = "make every step anew, also those that a job equal in everything has made before: for measuring",
     .groups = MAKES},
    {"label", 0, OPTION_TEXT, AT(label), "TEXT", "a note of yours, shown by `refrain status` and --json",
     .groups = MAKES_ONE},
    {"idempotency-key", 0, OPTION_TEXT, AT(idempotency_key), "TEXT",
     "submitting twice with the same key makes one job", .groups = MAKES_ONE},

    {.type = OPTION_HEADING, .help = "The load", .groups = VERB_PLAN},
    {"jobs", 0, OPTION_INT, AT(jobs), "N", "jobs at once, all alike", .standard = "1", .min = 1,
     .max = 1000000, .groups = VERB_PLAN},
    {"hit-rate", 0, OPTION_REAL, AT(hit_rate), "X", "share of a branch's steps that caching skips",
     .standard = "0", .min = 0, .max = 1, .groups = VERB_PLAN},
    {"caps", 0, OPTION_TEXT, AT(caps), "F,B",
     "blocks that a skipped step still runs, first and last (default 0,0)", .groups = VERB_PLAN},

    {.type = OPTION_HEADING, .help = "The ranks", .groups = VERB_PLAN},
    {"per-node", 0, OPTION_INT, AT(per_node), "N", "ranks of a node (default: all)", .min = 1, .max = 1024,
     .groups = VERB_PLAN},
    {"memory", 0, OPTION_REAL, AT(memory), "GB", "of each rank, in 1e9 bytes (default: as much as it takes)",
     .min = 0.001, .max = 1e6, .groups = VERB_PLAN},
    {"link", 0, OPTION_REAL, AT(link), "GB/s", "from a node to the others", .standard = "3", .min = 1e-6,
     .max = 1e6, .groups = VERB_PLAN},
    {"link-inside", 0, OPTION_REAL, AT(link_inside), "GB/s", "from a rank to others of its node",
     .standard = "300", .min = 1e-6, .max = 1e6, .groups = VERB_PLAN},
    {"tflops", 0, OPTION_REAL, AT(tflops), "N",
     "1e12 operations a second that a rank sustains, where nothing is measured", .standard = "500",
     .min = 1e-6, .max = 1e6, .groups = VERB_PLAN},
    {"measured", 0, OPTION_TEXT, AT(measured), "FILE", "times of a rank, as `refrain measure` writes them",
     .groups = VERB_PLAN},
    {"replicas", 0, OPTION_INT, AT(replicas), "N", "at most so many groups of ranks (default: any number)",
     .min = 1, .max = 1024, .groups = VERB_PLAN},
    {"explain", 0, OPTION_FLAG, AT(explain), .help = "all layouts, and what the prediction is made from",
     .groups = VERB_PLAN},

    {.type = OPTION_HEADING, .help = "How it runs", .groups = STARTS | VERB_MEASURE},
    {"ranks", 0, OPTION_INT, AT(ranks), "N",
     "MPI ranks that the model's layers are split over; measure: that compute at once, and between which "
     "links are measured",
     .standard = "2", .min = 1, .max = 1024, .groups = STARTS | PLANS},
    {"threads", 0, OPTION_INT, AT(threads), "N", "threads of each rank (default: the cores, shared out)",
     .min = 1, .max = 1024, .groups = STARTS | VERB_MEASURE},
    {"fabric", 0, OPTION_CHOICE, AT(fabric), .choices = "zmq|mpi|nccl",
     .help = "what carries data between ranks", .standard = "zmq", .groups = STARTS | VERB_MEASURE},

    {.type = OPTION_HEADING, .help = "Which ones", .groups = VERB_LIST | VERB_WATCH | VERB_CACHE},
    {"all", 0, OPTION_FLAG, AT(all), .help = "everybody's, with an admin key", .groups = VERB_CACHE},
    {"active", 'a', OPTION_FLAG, AT(active), .help = "only jobs that have not ended", .groups = VERB_LIST},
    {"limit", 'l', OPTION_INT, AT(limit), "N", "at most so many, newest first", .standard = "20", .min = 1,
     .max = LIMIT_LIST, .groups = VERB_LIST | VERB_CACHE},
    {"before", 0, OPTION_UINT64, AT(before), "JOB", "only jobs older than this one", .groups = VERB_LIST},
    {"from", 0, OPTION_UINT64, AT(from), "N", "only events with a sequence number above N (default 0: all)",
     .groups = VERB_WATCH},

    {.type = OPTION_HEADING, .help = "How long", .groups = VERB_RANKS},
    {"watch", 0, OPTION_FLAG, AT(watch), .help = "once a second, until Ctrl-C", .groups = VERB_RANKS},

    {.type = OPTION_HEADING, .help = "Which way", .groups = VERB_DRAIN},
    {"back", 0, OPTION_FLAG, AT(back), .help = "the ranks are to serve again", .groups = VERB_DRAIN},

    {.type = OPTION_HEADING, .help = "The coordinator", .groups = TALKS},
    {"coordinator", 'c', OPTION_TEXT, AT(coordinator), "ENDPOINT", "tcp://HOST:PORT or ipc://PATH",
     .standard = REFRAIN_DEFAULT_ENDPOINT, .env = "REFRAIN_COORDINATOR", .groups = TALKS},
    {"key", 0, OPTION_TEXT, AT(key), "FILE",
     "your key pair, from whoever runs the coordinator or from `refrain keygen`", .env = "REFRAIN_KEY",
     .groups = TALKS},
    {"server-key", 0, OPTION_TEXT, AT(server_key), "FILE",
     "the coordinator's public key, if your key file does not hold it", .env = "REFRAIN_SERVER_KEY",
     .groups = TALKS},
    {"timeout", 0, OPTION_DURATION, AT(timeout_ms), "TIME", "how long to look for the coordinator",
     .standard = "2s", .min = 1, .max = 3600000, .groups = TALKS},

    {.type = OPTION_HEADING, .help = "Output", .groups = SHOWS},
    {"json", 'j', OPTION_FLAG, AT(json), .help = "one JSON object a line, for scripts", .groups = SHOWS},
    {"quiet", 'q', OPTION_FLAG, AT(quiet),
     .help = "only what was asked for (submit: the job's number), and errors", .groups = SHOWS},
    {"help", 'h', OPTION_FLAG, AT(help), .help = "this text", .groups = SHOWS},
};

const struct option_table *settings_table(void)
{
    static const struct option_table table = {"refrain", specs, COUNT(specs)};
    return &table;
}

/* ------------------------------------------------------------------------------------ texts */

/* Reads `file` to its end: one byte more than allowed is enough to know that it is too much. */
static status_t read_stream(const char *flag, FILE *file, char **text, struct error *error)
{
    char *bytes = malloc(LIMIT_PROMPT_BYTES + 3);
    if (!bytes) return error_set(error, STATUS_NO_MEMORY, "no memory for --%s", flag);
    size_t length = fread(bytes, 1, LIMIT_PROMPT_BYTES + 2, file);
    status_t status = STATUS_OK;
    if (ferror(file)) status = error_set(error, STATUS_IO, "--%s: cannot be read: %m", flag);
    /* The line ends at the end are the file's, not the prompt's. */
    while (length && (bytes[length - 1] == '\n' || bytes[length - 1] == '\r')) length--;
    bytes[length] = 0;
    if (!status && strlen(bytes) != length)
        status = error_set(error, STATUS_INVALID, "--%s: contains a zero byte at %zu", flag, strlen(bytes));
    if (!status && length > LIMIT_PROMPT_BYTES)
        status = error_set(error, STATUS_INVALID, "--%s: more than %d bytes", flag, LIMIT_PROMPT_BYTES);
    if (status)
        free(bytes);
    else
        *text = bytes;
    return status;
}

/* TEXT, @FILE or - */
static status_t read_text(const char *flag, const char *value, char **text, struct error *error)
{
    if (strcmp(value, "-") == 0) return read_stream(flag, stdin, text, error);
    if (value[0] != '@') {
        *text = strdup(value);
        return *text ? STATUS_OK : error_set(error, STATUS_NO_MEMORY, "no memory for --%s", flag);
    }
    FILE *file = fopen(value + 1, "re");
    if (!file) return error_set(error, STATUS_INVALID, "--%s %s: cannot be read: %m", flag, value);
    status_t status = read_stream(flag, file, text, error);
    fclose(file);
    return status;
}

/* Of all tables in the file those that the job's policy and forecast can use: a file may hold many. */
static status_t read_tables(const struct settings *said, const char *cache, struct tablefile *tables,
                            const char **field, struct error *error)
{
    struct cache_settings caching;
    *field = "cache";
    status_t status = cache_settings_read(cache ? cache : "off", &caching, error);
    if (status) return status;
    *field = "cache_tables";
    const char *policy = caching.policy ? caching.policy->table : NULL,
               *forecast = caching.policy ? caching.forecast->table : NULL;
    if (!policy && !forecast)
        return error_set(error, STATUS_INVALID, "cache_tables: --cache %s needs no table",
                         cache ? cache : "off");
    status = tablefile_read(said->cache_table, tables, error);
    if (status) error_prefix(error, "--cache-table");
    if (status) return STATUS_INVALID;
    tablefile_keep(tables, policy, forecast);
    if (tables->count) return STATUS_OK;
    return error_set(error, STATUS_INVALID, "--cache-table %s: has no table of kind %s", said->cache_table,
                     policy ? policy : forecast);
}

void settings_loaded_free(struct settings_loaded *loaded)
{
    free(loaded->prompt);
    free(loaded->negative);
    tablefile_free(&loaded->tables);
    *loaded = (struct settings_loaded){0};
}

/* --------------------------------------------------------------------------------- requests */

status_t settings_clip(const struct settings *settings, const struct options *options,
                       struct planmodel_clip *clip, const char **field, struct error *error)
{
    struct planmodel_clip size;
    size_t count;
    bool whole = settings->size != NULL;
    *field = "size";
    status_t status = whole ? planmodel_sizes(settings->size, &size, 1, &count, error) : STATUS_OK;
    if (status) return status;
    const struct {
        const char *name;
        int64_t alone, of_size, min, max;
        uint32_t *to;
    } sides[] = {{"width", settings->width, size.width, LIMIT_SIZE_MULTIPLE, LIMIT_SIZE, &clip->width},
                 {"height", settings->height, size.height, LIMIT_SIZE_MULTIPLE, LIMIT_SIZE, &clip->height},
                 {"frames", settings->frames, size.frames, 1, LIMIT_FRAMES, &clip->frames}};
    for (size_t i = 0; i < COUNT(sides); i++) {
        bool alone = options_given(options, sides[i].name);
        int64_t value = whole ? sides[i].of_size : sides[i].alone;
        if (whole && alone)
            return error_set(error, STATUS_INVALID, "size %s: says the %s as well: leave --%s out",
                             settings->size, sides[i].name, sides[i].name);
        if (!whole && !alone) continue;
        if (!whole) *field = sides[i].name;
        if (value < sides[i].min || value > sides[i].max)
            return error_set(error, STATUS_INVALID, "%s%s %lld%s must be %lld to %lld", whole ? "size: " : "",
                             sides[i].name, (long long)value, whole ? "" : ":", (long long)sides[i].min,
                             (long long)sides[i].max);
        *sides[i].to = (uint32_t)value;
    }
    *field = "";
    return STATUS_OK;
}

/* 0 stands for "not said" in a spec, so a 0 that was said must be caught here; so must what no unsigned can
 * hold. The finer rules (multiples, limits together) are proto/validate.c's. */
static status_t check_said(const struct settings *settings, const struct options *options, const char **field,
                           struct error *error)
{
    if (options_given(options, "shift") && !(settings->shift > 0)) {
        *field = "shift";
        return error_set(error, STATUS_INVALID, "shift %g: must be above 0 and at most %d", settings->shift,
                         LIMIT_SHIFT);
    }
    if (settings->strict && !settings->deadline_ms) {
        *field = "deadline_ms";
        return error_set(error, STATUS_INVALID, "deadline_ms: must be given where it is strict");
    }
    if (!settings->prompt && !settings->resume_from) {
        *field = "prompt";
        return error_set(error, STATUS_INVALID, "prompt: must be given");
    }
    return STATUS_OK;
}

/* A number of steps, or END: 0. */
static status_t read_step(const struct settings *settings, unsigned *step, const char **field,
                          struct error *error)
{
    uint64_t number;
    *step = 0;
    if (!settings->at_step || strcasecmp(settings->at_step, "END") == 0) return STATUS_OK;
    *field = "at_step";
    if (settings_job_number(settings->at_step, &number, NULL) || number > LIMIT_STEPS)
        return error_set(error, STATUS_INVALID, "at_step %s: must be 1 to %d, or END", settings->at_step,
                         LIMIT_STEPS);
    *step = (unsigned)number;
    return STATUS_OK;
}

status_t settings_spec(const struct settings *settings, const struct options *options,
                       struct settings_loaded *loaded, struct refrain_spec *spec, const char **field,
                       struct error *error)
{
    struct planmodel_clip clip = {0};
    *field = "";
    status_t status = settings_clip(settings, options, &clip, field, error);
    if (!status) status = check_said(settings, options, field, error);
    if (!status && settings->prompt) status = read_text("prompt", settings->prompt, &loaded->prompt, error);
    if (!status && settings->negative)
        status = read_text("negative", settings->negative, &loaded->negative, error);
    const char *cache = settings->compare && !settings->cache ? "balanced" : settings->cache;
    if (!status && settings->cache_table)
        status = read_tables(settings, cache, &loaded->tables, field, error);
    if (status) return status;
    struct refrain_spec made = REFRAIN_SPEC_INIT;
    made.prompt = loaded->prompt;
    made.negative_prompt = loaded->negative;
    made.seed = settings->seed;
    made.steps = (unsigned)settings->steps;
    if (options_given(options, "guidance")) made.guidance = settings->guidance;
    if (options_given(options, "guidance-2")) made.guidance_scale_2 = settings->guidance_2;
    made.width = clip.width;
    made.height = clip.height;
    made.frames = clip.frames;
    if (options_given(options, "solver")) made.solver = (enum refrain_solver)(settings->solver + 1);
    made.shift = settings->shift;
    made.fps = (unsigned)settings->fps;
    made.save_latents = settings->save_latents != NULL;
    made.save_frames = settings->save_frames != NULL;
    if (options_given(options, "priority")) made.priority = (enum refrain_priority)settings->priority;
    made.deadline_ms = (uint64_t)settings->deadline_ms;
    made.deadline_strict = settings->strict;
    made.label = settings->label;
    made.cache = cache;
    made.cache_tables = loaded->tables.tables;
    made.cache_table_count = loaded->tables.count;
    made.compare = settings->compare;
    if (options_given(options, "checkpoint-every")) made.checkpoint_every = (int)settings->checkpoint_every;
    made.resume_from = settings->resume_from;
    made.recompute = settings->recompute;
    made.preview_every = (unsigned)settings->preview_every;
    if (settings->preview && !options_given(options, "preview-every")) made.preview_every = PREVIEW_STANDARD;
    status = read_step(settings, &made.at_step, field, error);
    if (!status) status = refrain_spec_check(&made, field, error);
    if (status) return status;
    *field = "";
    *spec = made;
    return STATUS_OK;
}

const char *settings_flag_of(const char *field)
{
    static const char *const renamed[][2] = {
        {"negative_prompt", "negative"},   {"guidance_scale_2", "guidance-2"},
        {"deadline_ms", "deadline"},       {"idempotency_key", "idempotency-key"},
        {"cache_tables", "cache-table"},   {"checkpoint_every", "checkpoint-every"},
        {"resume_from", "resume-from"},    {"at_step", "at-step"},
        {"preview_every", "preview-every"}};
    for (size_t i = 0; i < COUNT(renamed); i++)
        if (strcmp(field, renamed[i][0]) == 0) return renamed[i][1];
    for (size_t i = 0; i < COUNT(specs); i++)
        if (specs[i].name && strcmp(field, specs[i].name) == 0) return specs[i].name;
    return NULL;
}

const char *settings_blamed(const char *sentence)
{
    size_t length = strcspn(sentence, " :");
    for (size_t i = 0; i < COUNT(specs); i++)
        if (specs[i].name && strlen(specs[i].name) == length && strncmp(sentence, specs[i].name, length) == 0)
            return specs[i].name;
    return NULL;
}

status_t settings_job_number(const char *text, uint64_t *number, struct error *error)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end || errno || value == 0)
        return error_set(error, STATUS_INVALID, "'%s' is not a job's number; `refrain list` shows them",
                         text);
    *number = value;
    return STATUS_OK;
}
