/*
 * log.h - one line per event on standard error: time, level, who, sentence.
 *
 *     log_identify("worker 1@node7");                  once, at start
 *     log_line(LOG_WARN, "job %lu: rank %d was lost", job, rank);
 *
 * Any thread. Only the place that first notices an error logs it. Levels by volume: ERROR somebody must act,
 * WARN something was mended, INFO a few lines per job, DEBUG per ticket (off unless REFRAIN_LOG=debug).
 */
#ifndef REFRAIN_BASE_LOG_H
#define REFRAIN_BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

/* Who speaks, at most 63 bytes; call before other threads start. */
void log_identify(const char *who);

/* REFRAIN_LOG=error|warn|info|debug sets the level; `info` otherwise. */
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
