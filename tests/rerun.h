/*
 * rerun.h - this test program once more, as a process of its own with another environment: for what a process can be told
 * only once.
 *
 *     int main(int argc, char **argv)
 *     {
 *         rerun_program = argv[0];
 *         if (argc == 3 && strcmp(argv[1], "--choose") == 0) return print_choice(argv[2]);
 *     ...
 *     char text[RERUN_TEXT];
 *     RERUN(text, "--choose", "cuda", "REFRAIN_FAKEGPU_DEVICES=0");         what it printed; fails if it did not end well
 *     SAYS(text, "no GPU is visible");
 */
#ifndef REFRAIN_TESTS_RERUN_H
#define REFRAIN_TESTS_RERUN_H

#include <string.h>

enum { RERUN_TEXT = 4096, RERUN_SECONDS = 60 };

extern const char *rerun_program;

/* settings: NAME=VALUE, NULL at the end. Output and errors of the process go to `text`; longer than RERUN_SECONDS is a
 * hang, and fails the test it is called in. */
void rerun(char text[RERUN_TEXT], const char *option, const char *value, const char *const *settings);

#define RERUN(text, option, value, ...)                                                                      \
    rerun(text, option, value, (const char *const[]){__VA_ARGS__ __VA_OPT__(, ) NULL})
#define SAYS(text, part)                                                                                     \
    do {                                                                                                     \
        if (!strstr(text, part)) fail_msg("\"%s\" does not say \"%s\"", text, part);                         \
    } while (0)

#endif
