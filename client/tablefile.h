/*
 * tablefile.h - calibration tables in a file: what `refrain calibrate` writes, --cache-table sends with a
 * job, and a model's directory may hold as refrain-tables.json.
 *
 *     struct tablefile file;
 *     status_t status = tablefile_read("tables.json", &file, &error);
 *     spec.cache_tables = file.tables, spec.cache_table_count = file.count;
 *     ...
 *     tablefile_free(&file);
 *
 * The file:
 *
 *     {"tables": [{"kind": "magcache", "name": "reference", "layers": 8, "heads": 4, "head_dim": 32,
 *                  "ffn_dim": 512, "latent_channels": 16, "steps": 50, "shift": 3.0, "width": 1,
 *                  "values": [1.0, ...]}, ...]}
 *
 * A number of the architecture, `steps` or `shift` that is 0 or absent means any. What else an object holds
 * is kept, and ignored.
 *
 * Any thread.
 */
#ifndef REFRAIN_CLIENT_TABLEFILE_H
#define REFRAIN_CLIENT_TABLEFILE_H

#include "client/librefrain.h"

#define TABLEFILE_NAME "refrain-tables.json" /* in a model's directory */

struct tablefile {
    struct refrain_cache_table *tables; /* [count] */
    size_t count;
    void *source; /* owned: the strings of the tables are in it */
};

/* INVALID or IO, with a sentence that names the file, the table and the key. Nothing to free then. */
status_t tablefile_read(const char *path, struct tablefile *file, struct error *error);
void tablefile_free(struct tablefile *file); /* one that is all zero is fine */

/* Forgets the tables of any other kind than these two (NULL: none). */
void tablefile_keep(struct tablefile *file, const char *kind, const char *other_kind);

/* Puts tables into a file, which is made if need be: each replaces the one of its kind, name, steps and
 * shift; all others stay. The file is replaced at once, never half written. */
status_t tablefile_merge(const char *path, const struct refrain_cache_table *tables, size_t count,
                         struct error *error);

#endif
