/*
 * service_jobs.h - jobs of a stand (service_fixture.h) as a person asks for them and reads about them, with
 * --json.
 *
 *     int job = stand_make("once", SMALL "--steps 10 --cache %s", policy);
 *     json_t *report = stand_report(job);
 *     expect_complete(report, 10, 2);
 *
 * Every function fails the cmocka test it runs in when something is not as it should be.
 */
#ifndef REFRAIN_TESTS_SERVICE_JOBS_H
#define REFRAIN_TESTS_SERVICE_JOBS_H

#include <jansson.h>
#include "tests/service_fixture.h"

#define SMALL "--prompt 'a red star spinning' --seed 5 --width 32 --height 32 --frames 9 "
#define LARGE "--prompt 'a red star spinning' --seed 5 --width 64 --height 64 --frames 17 "

extern char stand_text[TEXT_BYTES]; /* what the latest command printed */
bool stand_says(const char *words); /* whether these are in it */
json_t *stand_object(void);         /* the last object in it */

/* Has a job made and its latents fetched into stand_directory/NAME.safetensors; the job's number. Model: ref.
 */
int stand_make(const char *name, const char *format, ...);

/* The same, but goes on while the client waits for it; its events come into NAME.log. */
pid_t stand_begin(const char *name, const char *words);

/* The number of the job of stand_begin(NAME), as soon as it has one. */
int stand_begun(const char *name);

/* Waits until a job has denoised so many steps. */
void stand_wait_step(int job, int step);

bool latents_are_equal(const char *a, const char *b); /* both NAME.safetensors; false if one is not there */

/* Waits until so many links of the only group have been measured. */
void stand_wait_links(int count);

/* What `status` says of a job; the report in it, for a job that has completed. For json_decref. */
json_t *stand_job(int number);
json_t *stand_report(int job);

const char *string_at(const json_t *object, const char *key); /* "": it is not there */
double number_at(const json_t *object, const char *key);

/* Everything of two reports but times and bytes. */
void expect_equal_verdicts(const json_t *a, const json_t *b, const char *what);

/* Lists of the right sizes, counts that fit them. */
void expect_complete(const json_t *cache, size_t steps, size_t branches);

#endif
