/* footprint_report.c - see footprint_report.h. One thread. */
#include "worker/footprint_report.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "kernels/paper.h"
#include "rules/wide.h"
#include "worker/footprint.h"

/* PROMPT_WORDS: more than any text length. PARTS_AT_ONCE: of a member of a wide stage v and q of a block, and k and what was attended
 * to, each in as many parts as there are groups of heads. */
enum { PROMPT_WORDS = 2048, PARTS_AT_ONCE = 2 + 2 * ULYSSES_GROUPS };

/* A prompt as long as the model takes. */
static char *long_prompt(void)
{
    char *prompt = malloc(2 * PROMPT_WORDS + 1), *at = prompt;
    for (int i = 0; prompt && i < PROMPT_WORDS; i++) {
        *at++ = (char)('a' + i % 7);
        *at++ = ' ';
    }
    if (prompt) *at = 0;
    return prompt;
}

static status_t order_of(const struct footprint_wish *wish, const struct model_config *config, char *prompt,
                         struct job_order *order, struct error *error)
{
    if (!prompt) return error_set(error, STATUS_NO_MEMORY, "no memory for a prompt");
    *order = (struct job_order){.job = 1,
                                .attempt = 1,
                                .prompt = prompt,
                                .negative = prompt,
                                .steps = wish->steps,
                                .width = wish->width,
                                .height = wish->height,
                                .frames = wish->frames,
                                .fps = 16,
                                .guidance = 5,
                                .shift = config->solver.shift,
                                .solver = config->solver.kind,
                                .cache = wish->cache};
    return STATUS_OK;
}

/* Where hops of a job's two branches land, at most, and parts that a wide stage's members give each other: each in a piece of whole
 * FABRIC_LANDING_BYTES that a hop to one rank fits into. Home has all of a hop back. */
static size_t landing_bytes(const struct footprint_wish *wish, const struct model_config *c,
                            const struct split *split, bool home)
{
    int width = split_width(split), most = width > 1 ? wide_hops(split->members / width) : ENGINE_LANDINGS;
    if (!wish->lands || split->members == 1) return 0;
    int64_t tokens = (int64_t)((wish->frames - 1) / c->vae.scale_t + 1) *
                     (wish->height / c->vae.scale_y / c->denoiser.patch_y) *
                     (wish->width / c->vae.scale_y / c->denoiser.patch_x);
    uint64_t hop = hop_bytes(((int)tokens + width - 1) / width, c->denoiser.hidden) +
                   (uint64_t)c->denoiser.layers * sizeof(float);
    int hops = 2 * wish->jobs < most ? 2 * wish->jobs : most;
    int pieces = hops * (home ? width : 1) + PARTS_AT_ONCE * (width - 1);
    return (size_t)pieces * ((hop + FABRIC_LANDING_BYTES - 1) / FABRIC_LANDING_BYTES * FABRIC_LANDING_BYTES);
}

/* ---------------------------------------------------------------------------------------------------- printing */

/* What there is beside what was measured; landing: of home, and of any other rank. */
struct beside {
    size_t own, landing[2], tier, shared;
};

static size_t landing_of(const struct beside *beside, int rank)
{
    return beside->landing[rank > 0];
}

static size_t total_of(const struct footprint *ranks, int rank, const struct beside *beside)
{
    return ranks[rank].most.most_device + beside->own + landing_of(beside, rank) + beside->tier;
}

static double gb(size_t bytes)
{
    return (double)bytes / 1e9;
}

static void print_table(const struct footprint_wish *wish, const struct split *split,
                        const struct footprint *ranks, const struct beside *beside)
{
    printf("%dx%dx%d, %d job%s in flight, caching %s: GB of the GPU, and of the host's pinned memory\n",
           wish->width, wish->height, wish->frames, wish->jobs, wish->jobs == 1 ? "" : "s",
           wish->cache && *wish->cache ? wish->cache : "off");
    printf("rank  blocks  weights    work    jobs  caching  buffers    text  decode  landing    tier  "
           "backend    "
           "most%s  pinned\n",
           wish->memory ? "  fits" : "");
    for (int i = 0; i < split->members; i++) {
        const struct footprint *f = &ranks[i];
        printf("%4d  %6d  %7.3f %7.3f %7.3f  %7.3f  %7.3f %7.3f %7.3f  %7.3f %7.3f  %7.3f %7.3f", i,
               f->blocks, gb(f->weights.device), gb(f->work.device), gb(f->jobs.device - f->caching.device),
               gb(f->caching.device), gb(f->buffers.device), gb(f->text.device), gb(f->decode.device),
               gb(landing_of(beside, i)), gb(beside->tier), gb(beside->own), gb(total_of(ranks, i, beside)));
        if (wish->memory) printf("  %4s", total_of(ranks, i, beside) <= wish->memory ? "yes" : "no");
        printf("  %6.3f\n", gb(f->most.most_shared + beside->shared));
    }
}

static json_t *part_json(const struct footprint_part *part)
{
    return json_pack("{s:I,s:I}", "device", (json_int_t)part->device, "shared", (json_int_t)part->shared);
}

static json_t *rank_json(const struct footprint_wish *wish, const struct footprint *ranks, int number,
                         const struct beside *beside)
{
    const struct footprint *f = &ranks[number];
    struct footprint_part jobs = {f->jobs.device - f->caching.device, f->jobs.shared - f->caching.shared};
    struct footprint_part landing = {landing_of(beside, number), 0}, own = {beside->own, beside->shared},
                          tier = {beside->tier, 0},
                          most = {total_of(ranks, number, beside), f->most.most_shared + beside->shared};
    json_t *rank =
        json_pack("{s:i,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "blocks", f->blocks, "weights",
                  part_json(&f->weights), "work", part_json(&f->work), "jobs", part_json(&jobs), "caching",
                  part_json(&f->caching), "buffers", part_json(&f->buffers), "text", part_json(&f->text),
                  "decode", part_json(&f->decode), "landing", part_json(&landing), "tier", part_json(&tier),
                  "backend", part_json(&own), "most", part_json(&most));
    if (rank && wish->memory) json_object_set_new(rank, "fits", json_boolean(most.device <= wish->memory));
    return rank;
}

static status_t print_json(const struct footprint_wish *wish, const struct split *split,
                           const struct footprint *ranks, const struct beside *beside, struct error *error)
{
    json_t *list = json_array();
    for (int i = 0; i < split->members; i++) json_array_append_new(list, rank_json(wish, ranks, i, beside));
    json_t *all =
        json_pack("{s:i,s:i,s:i,s:i,s:s,s:o}", "width", wish->width, "height", wish->height, "frames",
                  wish->frames, "jobs", wish->jobs, "cache", wish->cache ? wish->cache : "", "ranks", list);
    char *text = all ? json_dumps(all, JSON_INDENT(1)) : NULL;
    json_decref(all);
    if (!text) return error_set(error, STATUS_NO_MEMORY, "no memory for the answer");
    puts(text);
    free(text);
    return STATUS_OK;
}

/* ------------------------------------------------------------------------------------------------------------- whole */

static status_t check_fits(const struct footprint_wish *wish, const struct split *split,
                           const struct footprint *ranks, const struct beside *beside, struct error *error)
{
    for (int i = 0; wish->memory && i < split->members; i++)
        if (total_of(ranks, i, beside) > wish->memory)
            return error_set(error, STATUS_NO_MEMORY, "rank %d does not fit: it takes %.2f GB of %.2f GB", i,
                             gb(total_of(ranks, i, beside)), gb(wish->memory));
    return STATUS_OK;
}

/* Chains and wide stages as the coordinator lays them over ranks that are alike, for jobs that do not cache. */
static status_t lay_out(const struct footprint_wish *wish, const struct model_config *config,
                        struct split *split, struct error *error)
{
    const struct plan_wish asked = {.layout = wish->layout, .width = (uint32_t)wish->stage_width};
    const struct plan_request request = {
        .layers = (uint32_t)config->denoiser.layers,
        .ranks = (uint32_t)wish->ranks,
        .mix = {.branches = PLAN_BRANCHES, .experts = (uint32_t)config->experts, .first_share = 0.5},
        .wish = &asked,
        .heads = (uint32_t)config->denoiser.heads};
    struct plan plan;
    if (wish->ranks == 0)
        return error_set(error, STATUS_INVALID,
                         "--ranks 0: says nothing of --layout and --stage-width: name the ranks");
    if (wish->ranks > SPLIT_MAX_MEMBERS)
        return error_set(error, STATUS_INVALID, "--ranks %d: at most %d", wish->ranks, SPLIT_MAX_MEMBERS);
    status_t status = plan_make(&request, &plan, error);
    if (status != STATUS_OK) return status;
    *split = (struct split){.members = wish->ranks,
                            .head = (int)plan.head,
                            .tail = (int)plan.tail,
                            .width = (int)plan_width(&plan)};
    for (int e = 0; e < PLAN_EXPERTS; e++)
        for (int b = 0; b < PLAN_BRANCHES; b++) split->chain[e][b] = (int)plan.chain[e][b];
    for (uint32_t i = 0; i < plan_chains(&plan) * plan.ranks; i++) split->run[i] = (int)plan.run[i];
    return STATUS_OK;
}

static status_t report(const struct footprint_wish *wish, const struct job_order *order,
                       const struct model_config *config, struct error *error)
{
    struct split split;
    const struct split several = {.members = 2};
    struct beside beside = {.own = paper_own_bytes(MEMORY_DEVICE),
                            .tier = wish->tier_device,
                            .shared = paper_own_bytes(MEMORY_SHARED)};
    const struct footprint_task task = {
        .order = order,
        .jobs = wish->jobs,
        .decode_memory = wish->decode_memory ? wish->decode_memory : wish->memory / ENGINE_DECODE_PARTS};
    bool chain = wish->layout <= PLAN_LAYOUT_PIPELINE && wish->stage_width <= 1;
    status_t status =
        chain ? footprint_split(wish->directory, &task, wish->ranks, wish->memory, beside.own + beside.tier,
                                landing_bytes(wish, config, &several, true), &split, error)
              : lay_out(wish, config, &split, error);
    if (status != STATUS_OK) return status;
    for (int other = 0; other < 2; other++)
        beside.landing[other] = landing_bytes(wish, config, &split, other == 0);
    struct footprint *ranks = calloc((size_t)split.members, sizeof *ranks);
    if (!ranks) return error_set(error, STATUS_NO_MEMORY, "no memory for %d ranks", split.members);
    status = footprint_caching(wish->directory, &split, &task, ranks, error);
    if (status == STATUS_OK && wish->json)
        status = print_json(wish, &split, ranks, &beside, error);
    else if (status == STATUS_OK)
        print_table(wish, &split, ranks, &beside);
    if (status == STATUS_OK) status = check_fits(wish, &split, ranks, &beside, error);
    free(ranks);
    return status;
}

status_t footprint_report(const struct footprint_wish *wish, struct error *error)
{
    struct model_config config;
    struct job_order order;
    if (wish->ranks == 0 && wish->memory == 0)
        return error_set(error, STATUS_INVALID,
                         "--ranks 0 asks for the fewest ranks that fit: say --memory, such as 24G");
    status_t status = model_config_read(wish->directory, &config, error);
    if (status != STATUS_OK) return status;
    char *prompt = long_prompt();
    status = order_of(wish, &config, prompt, &order, error);
    if (status == STATUS_OK) status = report(wish, &order, &config, error);
    free(prompt);
    return status;
}
