/*
 * scrape.h - the HTTP port that metrics are fetched from: GET /metrics, and nothing else.
 *
 *     scrape_open("127.0.0.1:9464", &scrape, &error);
 *     poll on scrape_descriptor(scrape);
 *     if (scrape_wanted(scrape)) scrape_give(scrape, text, bytes);       text: malloc's, taken over
 *     scrape_close(scrape);
 *
 * What is told belongs to the loop, so only the loop makes it: a request waits until the loop has given a text that is
 * younger than a quarter of a second, and gets 503 if that takes two seconds. Between requests nothing is made.
 *
 * A thread of its own runs libmicrohttpd. What it shares with the loop is one text and a flag, under one lock that is
 * held to exchange pointers. Everything has a bound: SCRAPE_VISITS connections at once, three seconds for a request to
 * be said, ten for all of it, 8 KiB for what is said. One request a connection.
 *
 * There is no key and no TLS: whoever reaches the address may read. The loop gives nothing there that tells tenants apart.
 */
#ifndef REFRAIN_COORDINATOR_METRICS_SCRAPE_H
#define REFRAIN_COORDINATOR_METRICS_SCRAPE_H

#include <stdbool.h>
#include <stddef.h>
#include "base/status.h"

struct scrape;

enum { SCRAPE_VISITS = 32 };

/* ADDRESS:PORT, [ADDRESS]:PORT for IPv6, :PORT or PORT for this machine alone; port 0 or * takes a free one.
 * STATUS_INVALID: it is none of these. Opens nothing. */
status_t scrape_check(const char *address, struct error *error);
/* The same, and STATUS_IO: it cannot be bound. */
status_t scrape_open(const char *address, struct scrape **scrape, struct error *error);
void scrape_close(struct scrape *scrape); /* NULL is fine; who still waits is cut off */

const char *scrape_url(const struct scrape *scrape); /* as bound */
int scrape_descriptor(const struct scrape *scrape);  /* readable while scrape_wanted is true */
bool scrape_wanted(struct scrape *scrape);           /* somebody waits; true once for all who do */
void scrape_give(struct scrape *scrape, char *text, size_t bytes);

#endif
