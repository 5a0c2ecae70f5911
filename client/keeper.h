/*
 * keeper.h - the process that stands between `refrain generate` and what it started; see service.h for why.
 *
 *     if (fork() == 0) keeper_run(&plan);           never returns
 */
#ifndef REFRAIN_CLIENT_KEEPER_H
#define REFRAIN_CLIENT_KEEPER_H

struct keeper_plan {
    const char *const *command; /* the program to run, NULL-terminated */
    const char *directory;      /* absolute; removed with all that is in it at the end */
    const char *log;            /* where the program's standard output and error go */
    int life_fd;                /* end of file on it means: end everything */
    int ended_fd;               /* gets one byte when the program has ended */
};

/* Runs the program until it or the owner of life_fd's other end is gone; then ends whatever is left of it,
 * removes the directory and exits. To be called in a forked child with one thread. */
_Noreturn void keeper_run(const struct keeper_plan *plan);

/* Removes a directory and all in it, following no links. */
void keeper_remove_tree(const char *directory);

#endif
