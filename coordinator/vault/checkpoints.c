/*
 * checkpoints.c - the coordinator's side of its vault: where it listens, whom it serves, what was saved.
 *
 * Runs on the coordinator's loop thread.
 */
#include <stdio.h>
#include <string.h>
#include "coordinator/server.h"

/* Beside the workers' socket: the same interface and a free port, or a file with another name. */
static void beside(const char *endpoint, char vault[256])
{
    const char *port = strrchr(endpoint, ':');
    if (strncmp(endpoint, "tcp://", 6) == 0 && port)
        snprintf(vault, 256, "%.*s:*", (int)(port - endpoint), endpoint);
    else
        snprintf(vault, 256, "%.240s.vault", endpoint);
}

/* A wildcard is announced as it is: ranks put in the host where they reach the coordinator. */
static void announce(const char *bound, char endpoint[256])
{
    static const char *const wildcards[] = {"tcp://0.0.0.0:", "tcp://[::]:"};
    snprintf(endpoint, 256, "%s", bound);
    for (size_t i = 0; i < sizeof wildcards / sizeof *wildcards; i++)
        if (strncmp(bound, wildcards[i], strlen(wildcards[i])) == 0)
            snprintf(endpoint, 256, "tcp://*:%s", bound + strlen(wildcards[i]));
}

static status_t protect(void *server, void *socket, struct error *error)
{
    struct curve *curve = ((struct server *)server)->curve;
    return curve ? curve_protect(curve, socket, "workers", error) : STATUS_OK;
}

/* What jobs that have ended left stays as long as they are in the store. */
static bool is_wanted(void *context, uint64_t id)
{
    struct server *server = context;
    Refrain__Job *job;
    if (jobs_find(server->jobs, id)) return true;
    if (!server->settings->marks || jobstore_get(server->store, NULL, id, &job, NULL) != STATUS_OK)
        return false;
    refrain__job__free_unpacked(job, NULL);
    vault_retire(server->vault, id);
    return true;
}

/* So many marks, at steps at which the job makes checkpoints anyway. */
uint32_t server_mark_every(const struct server *server, const Refrain__JobSpec *spec)
{
    uint32_t every = spec->checkpoint_every, marks = (uint32_t)server->settings->marks;
    if (!server->vault || !every || !marks) return 0;
    uint32_t stride = (spec->steps + marks - 1) / marks;
    return (stride + every - 1) / every * every;
}

/* Ranks that outlived an earlier coordinator go on saving before they have said who they are. */
static void allow_running(struct server *server)
{
    const struct job *job;
    Refrain__Job *stored;
    for (size_t i = 0; (job = jobs_at(server->jobs, i)); i++) {
        if (job->state != REFRAIN__JOB_STATE__JOB_RUNNING) continue;
        vault_allow(server->vault, job->id, job->attempt);
        if (jobstore_get(server->store, NULL, job->id, &stored, NULL) != STATUS_OK) continue;
        vault_mark(server->vault, job->id, server_mark_every(server, stored->spec));
        refrain__job__free_unpacked(stored, NULL);
    }
}

status_t server_open_vault(struct server *server, struct error *error)
{
    const struct settings *settings = server->settings;
    char bind[256], directory[PATH_MAX + 16];
    if (settings->checkpoint_limit == 0) return STATUS_OK;
    if (settings->vault_endpoint)
        snprintf(bind, sizeof bind, "%.255s", settings->vault_endpoint);
    else
        beside(settings->worker_endpoint, bind);
    status_t status = server->curve ? STATUS_OK : curve_check_loopback("--vault-endpoint", bind, error);
    if (status != STATUS_OK) return status;
    snprintf(directory, sizeof directory, "%s/checkpoints", settings->data_path);
    struct vault_config config = {.context = server->context,
                                  .bind = bind,
                                  .directory = directory,
                                  .limit_bytes = (uint64_t)settings->checkpoint_limit,
                                  .job_bytes = (uint64_t)settings->checkpoint_limit,
                                  .mark_bytes = settings->marks ? (uint64_t)settings->mark_limit : 0,
                                  .keep = (int)settings->checkpoint_keep,
                                  .secure = protect,
                                  .secure_argument = server};
    status = vault_open(&config, &server->vault, error);
    if (status != STATUS_OK) return status;
    announce(vault_endpoint(server->vault), server->vault_endpoint);
    vault_sweep(server->vault, is_wanted, server);
    allow_running(server);
    return STATUS_OK;
}

/* A job that gets on shows that its ranks are well. */
void server_take_saved(struct server *server)
{
    struct checkpoint saved;
    struct group *group;
    while (server->vault && vault_saved(server->vault, &saved)) {
        if (!groups_slot(server->groups, saved.job, &group)) continue;
        group->progress_ns = server->now_ns;
        group->broken_epochs = 0;
    }
}

void server_retire_checkpoints(struct server *server, uint64_t job)
{
    if (server->vault) vault_retire(server->vault, job);
}

void server_drop_checkpoints(struct server *server, uint64_t job)
{
    if (server->vault) vault_drop(server->vault, job);
}
