/*
 * main.c - the `refrain` command: finds the verb, reads its options, runs it, cleans up. One thread.
 *
 * What each verb does is in verb_*.c and generate.c; the options are one table in settings.c.
 */
#include "client/cli.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct verb {
    const char *name, *operands;
    enum verb_bit bit;
    int (*run)(struct cli *cli);
    const char *summary; /* one line */
    const char *text;    /* what `refrain help VERB` says above the options */
};

static const struct verb verbs[] = {
    {"generate", "", VERB_GENERATE, verb_generate,
     "one prompt to one video on this machine; nothing else has to run",
     "Starts a coordinator and MPI ranks of its own, makes one video, and stops everything again. On a coordinator that\n"
     "is named, or to go on from a job there, it is submit --wait with a file at the end.\n"
     "\n"
     "  refrain generate --prompt \"a large red star spinning on a navy background\" --seed 7\n"
     "  refrain generate --model ./Wan2.1-T2V-1.3B --ranks 4 --prompt @prompt.txt --output storm.mp4\n"
     "  refrain generate --resume-from 7 --at-step 20 --guidance 6 --output variation.mp4\n"},
    {"compare", "", VERB_COMPARE, verb_compare,
     "the same video with caching and without, and how they differ",
     "Makes one video twice, with --cache (default: balanced) and without, and prints how far apart they are "
     "and "
     "what\n"
     "caching saved. FILE.compare.mp4 and FILE.compare.png show both side by side. Like generate, unless a\n"
     "coordinator is named.\n"
     "\n"
     "  refrain compare --prompt \"a large red star spinning on a navy background\" --cache fast\n"
     "  refrain compare --coordinator tcp://127.0.0.1:5731 --prompt @prompt.txt --output storm.mp4\n"},
    {"submit", "", VERB_SUBMIT, verb_submit, "give a job to a coordinator",
     "Gives a job to a coordinator that is already running and prints its number. With --wait or --output "
     "it\n"
     "stays and shows progress; Ctrl-C then leaves the job running.\n"
     "\n"
     "  refrain submit --model reference --prompt \"a green square drifting right\" --wait\n"
     "  refrain submit --prompt @prompt.txt --priority high --deadline 10m --output storm.mp4\n"},
    {"status", "JOB", VERB_STATUS, verb_status, "everything about one job",
     "Shows a job as it is now: state, request, times, files.\n"
     "\n"
     "  refrain status 4127\n"},
    {"watch", "JOB", VERB_WATCH, verb_watch, "follow a job until it has ended",
     "Shows a job's progress until it has ended. The exit code is the job's: see `refrain help`.\n"
     "\n"
     "  refrain watch 4127\n"
     "  refrain watch 4127 --json | jq .step\n"},
    {"cancel", "JOB...", VERB_CANCEL, verb_cancel, "end jobs; a running one stops at its next step",
     "Takes jobs out of the queue; a running one stops at its next step.\n"
     "\n"
     "  refrain cancel 4127 4128\n"},
    {"list", "", VERB_LIST, verb_list, "your jobs, newest first",
     "Lists jobs, newest first.\n"
     "\n"
     "  refrain list --active\n"
     "  refrain list --limit 100 --before 4000\n"},
    {"result", "JOB", VERB_RESULT, verb_result, "fetch the files of a completed job",
     "Fetches a completed job's video and contact sheet, and on request its tensors. Each file is checked "
     "against\n"
     "its hash and appears only once it is whole; a fetch that was interrupted goes on where it stopped.\n"
     "\n"
     "  refrain result 4127                                     runs/4127.mp4 and runs/4127.png\n"
     "  refrain result 4127 --output storm.mp4 --save-latents storm.safetensors\n"},
    {"delete", "JOB...", VERB_DELETE, verb_delete, "forget finished jobs and their files",
     "Removes finished jobs and their files from the coordinator.\n"
     "\n"
     "  refrain delete 4127\n"},
    {"stats", "", VERB_STATS, verb_stats, "what the service is doing",
     "Shows the coordinator, its ranks and its counts of jobs.\n"
     "\n"
     "  refrain stats\n"},
    {"ranks", "", VERB_RANKS, verb_ranks, "who computes: the ranks, their health, what is in flight",
     "Shows the groups of ranks a coordinator has: who is a member, who is missing, whether they compute, "
     "which\n"
     "blocks they hold, how the model is laid over them, and the jobs in flight (yours by number).\n"
     "\n"
     "  refrain ranks\n"
     "  refrain ranks --watch\n"
     "  refrain ranks --json | jq '.groups[].ranks[] | select(.state == \"missing\")'\n"},
    {"cache", "[list | flush [KIND] | forget KEY | pin KEY | unpin KEY]", VERB_CACHE, verb_cache,
     "what the ranks keep for later jobs, and what it saves",
     "Shows the cache tier by kind and rank: what is there, hits, misses with their reasons, seconds saved. Items are\n"
     "yours, or public where they depend on a model alone; an admin sees everybody's with --all. `flush` forgets all\n"
     "items or those of a kind, `forget` one of `list`; a pinned one is not evicted until its rank ends.\n"
     "\n"
     "  refrain cache\n"
     "  refrain cache list --limit 20\n"
     "  refrain cache flush text\n"
     "  refrain cache --all --json | jq '.figures[] | {rank, kind, seconds_saved}'\n"},
    {"drain", "WHO", VERB_DRAIN, verb_drain, "take ranks out of service, or back into it",
     "Ends ranks while jobs run: their group goes on with those that are left, laid out anew, and the jobs in "
     "flight from\n"
     "their checkpoints; what they make is the same. WHO is GROUP/RANK as `refrain ranks` shows them, RANK where "
     "there is\n"
     "one group, or a host's name for all ranks there. Where keys are in use it needs an admin's.\n"
     "\n"
     "  refrain drain node2\n"
     "  refrain drain 3fa9c2e1/1\n"
     "  refrain drain 3fa9c2e1/1 --back\n"},
    {"policies", "[NAME]", VERB_POLICIES, verb_policies, "what --cache takes",
     "Lists presets, caching policies and forecasts, or everything about one of them: parameters, defaults, "
     "source.\n"
     "\n"
     "  refrain policies\n"
     "  refrain policies dbcache\n"},
    {"plan", "", VERB_PLAN, verb_plan, "which layout to take on how many ranks, and what it is worth",
     "Predicts time, throughput, memory and traffic of every way to lay a model over ranks, for clusters that are not\n"
     "there as well: replicas, guidance branches apart, pipeline stages, ranks that share a stage's tokens, pools for two\n"
     "experts. Asks no coordinator and reads no weights. The models behind it: docs/planner.md.\n"
     "\n"
     "  refrain plan --ranks 8 --model wan2.1-t2v-14b --size 1280x720x81 --memory 80\n"
     "  refrain plan --ranks 16 --per-node 8 --link 3 --jobs 4 --model ./Wan2.1-T2V-14B-Diffusers --explain\n"
     "  refrain plan --ranks 4 --model models/reference --measured refrain-times.json --hit-rate 0.5 --caps 1,0\n"},
    {"measure", "", VERB_MEASURE, verb_measure, "how fast ranks of this machine and their links are, for plan",
     "Runs a model on one rank, with every size, and writes the seconds of a prompt, a forward pass, its blocks and a\n"
     "decode to FILE, which `refrain plan --measured FILE` reads. With more ranks also what the blocks take while all of\n"
     "them compute, and how fast the links between them are: those of ranks that it starts for this, or with\n"
     "--coordinator those of a service that is there.\n"
     "\n"
     "  refrain measure --model models/reference --size 64x64x17,128x128x17 --output refrain-times.json\n"
     "  refrain measure --model models/reference --ranks 4 --threads 1\n"
     "  refrain measure --model ./Wan2.1-T2V-1.3B-Diffusers --coordinator tcp://head:5731\n"},
    {"calibrate", "", VERB_CALIBRATE, verb_calibrate, "measure a model for the policies that need tables",
     "Runs a few prompts with every step computed, and fits tables to what was measured. They belong to the "
     "model,\n"
     "and to the number of steps and shift they were made at. In the model's directory, as " TABLEFILE_NAME
     ",\n"
     "they serve every job; otherwise --cache-table sends them with one. Like generate, unless a coordinator "
     "is\n"
     "named.\n"
     "\n"
     "  refrain calibrate --model models/reference --steps 50 --output models/reference/" TABLEFILE_NAME "\n"
     "  refrain calibrate --kind magcache --steps 30 --prompts prompts.txt --output tables.json\n"},
    {"models", "[list | add NAME DIR | remove NAME]", VERB_MODELS, verb_models,
     "the models a coordinator knows",
     "Lists, adds or removes models. A model is a checkpoint directory in diffusers' layout on the "
     "coordinator's\n"
     "host; jobs name it by NAME.\n"
     "\n"
     "  refrain models\n"
     "  refrain models add wan-1.3b /data/Wan2.1-T2V-1.3B-Diffusers\n"},
    {"keygen", "FILE", VERB_KEYGEN, verb_keygen, "make a key pair for a coordinator that wants keys",
     "Writes a new CURVE key pair to FILE (keep it to yourself) and its public half to FILE.pub (give it to "
     "whoever\n"
     "runs the coordinator; they put it among its --keys as YOURNAME.pub).\n"
     "\n"
     "  refrain keygen ~/.config/refrain.key\n"},
};

enum { VERB_COUNT = sizeof verbs / sizeof *verbs };

static const struct verb *find_verb(const char *name)
{
    for (size_t i = 0; i < VERB_COUNT; i++)
        if (strcmp(verbs[i].name, name) == 0) return &verbs[i];
    return NULL;
}

static void print_verbs(FILE *out)
{
    fprintf(out, "refrain - videos from prompts, on this machine or on a cluster\n\n"
                 "usage: refrain VERB [options]\n\n");
    for (size_t i = 0; i < VERB_COUNT; i++) fprintf(out, "  %-10s %s\n", verbs[i].name, verbs[i].summary);
    fprintf(out, "\n"
                 "`refrain VERB --help` lists a verb's options. Start with\n"
                 "\n"
                 "  refrain generate --prompt \"a large red star spinning on a navy background\"\n"
                 "\n"
                 "Exit codes:\n"
                 "  0    done\n"
                 "  1    the job failed, or something on this machine did\n"
                 "  2    an option or value is wrong; nothing was started\n"
                 "  3    no coordinator there, or it does not answer\n"
                 "  4    not found, already there, not possible in this state, or not allowed\n"
                 "  5    the job was cancelled or its deadline passed\n"
                 "  130  interrupted with Ctrl-C (128 plus the signal's number)\n");
}

static void print_verb(const struct verb *verb)
{
    printf("usage: refrain %s%s%s [options]\n\n%s", verb->name, *verb->operands ? " " : "", verb->operands,
           verb->text);
    const struct option_table *table = settings_table();
    if (table->specs[0].groups & verb->bit)
        putchar('\n'); /* the first heading brings no blank line of its own */
    options_help(table, verb->bit, stdout);
}

static int unknown_verb(const char *name)
{
    fprintf(stderr, "refrain: '%s' is not something refrain can do; `refrain help` lists what is\n", name);
    return EXIT_CODE_USAGE;
}

static int help(const char *name)
{
    if (!name) {
        print_verbs(stdout);
        return EXIT_CODE_OK;
    }
    const struct verb *verb = find_verb(name);
    if (!verb) return unknown_verb(name);
    print_verb(verb);
    return EXIT_CODE_OK;
}

/* A --json among the arguments makes even the complaint about the others JSON. */
static bool wants_json(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--json") == 0) return true;
    return false;
}

/* argv[0] is the verb. */
static int run(const struct verb *verb, int argc, char **argv)
{
    struct cli cli = {.signal_fd = -1, .style = show_style_of(STDOUT_FILENO)};
    struct error error;
    int code;
    bool json = wants_json(argc, argv);
    status_t status =
        options_parse(settings_table(), verb->bit, argc, argv, &cli.settings, &cli.options, &error);
    if (status) {
        cli.settings.json = json;
        code = cli_fail(&cli, status, &error);
    } else if (cli.settings.help) {
        print_verb(verb);
        code = EXIT_CODE_OK;
    } else {
        code = verb->run(&cli);
    }
    refrain_close(cli.refrain);
    options_destroy(cli.options);
    if (cli.signal_fd >= 0) close(cli.signal_fd);
    /* A full disk behind standard output is a failure, not a success with half a list. */
    if (fflush(stdout) || ferror(stdout)) code = code ? code : EXIT_CODE_FAILED;
    return code;
}

int main(int argc, char **argv)
{
    show_locale();
    if (argc < 2) {
        print_verbs(stderr);
        return EXIT_CODE_USAGE;
    }
    const char *first = argv[1];
    if (strcmp(first, "--version") == 0) {
        printf("refrain " REFRAIN_VERSION "\n");
        return EXIT_CODE_OK;
    }
    if (strcmp(first, "help") == 0 || strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0)
        return help(argc > 2 ? argv[2] : NULL);
    const struct verb *verb = find_verb(first);
    return verb ? run(verb, argc - 1, argv + 1) : unknown_verb(first);
}
