/*
 * caching_report.h - what a job's caching did, as messages say it.
 *
 *     struct caching_report storage;
 *     done.cache = caching_report(job, &storage);          NULL: caching is off
 *
 * Pointers in the messages are the job's and the storage's: pack before either goes. Compute thread of home.
 */
#ifndef REFRAIN_WORKER_CACHING_REPORT_H
#define REFRAIN_WORKER_CACHING_REPORT_H

#include "proto/refrain.pb-c.h"
#include "worker/job.h"

struct caching_report {
    Refrain__CacheReport report;
    Refrain__Comparison comparison;
};
Refrain__CacheReport *caching_report(const struct job *job, struct caching_report *storage);

/* The steps so far, one byte each (enum CacheAction; PARTLY where branches differ), and the largest change
 * let through. strip: [steps], made here. */
void caching_progress(const struct job *job, uint8_t *strip, Refrain__Progress *progress);

#endif
