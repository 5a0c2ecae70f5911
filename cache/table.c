/*
 * table.c - see table.h.
 */
#include "cache/table.h"

#include <stdio.h>
#include <string.h>

bool table_fits(const struct cache_table *table, const struct cache_model *model)
{
    const struct cache_model *made = &table->model;
    if (made->layers == 0 && made->heads == 0 && made->head_dim == 0 && made->ffn_dim == 0 &&
        made->latent_channels == 0)
        return true;
    return made->layers == model->layers && made->heads == model->heads &&
           made->head_dim == model->head_dim && made->ffn_dim == model->ffn_dim &&
           made->latent_channels == model->latent_channels && (made->experts == 2) == (model->experts == 2);
}

static const struct cache_table *first_that_fits(const char *kind, const struct cache_table *tables,
                                                 int count, const struct cache_model *model)
{
    for (int i = 0; i < count; i++)
        if (strcmp(tables[i].kind, kind) == 0 && table_fits(&tables[i], model)) return &tables[i];
    return NULL;
}

static int published_count(void)
{
    int count = 0;
    while (tables_published[count].kind != NULL) count++;
    return count;
}

/* ", there are ones for A, B" into text: names of every table of a kind; "" when there is none. */
static void names_of_kind(const char *kind, const struct cache_table *tables, int count, char *text,
                          size_t bytes)
{
    for (int i = 0; i < count; i++) {
        size_t used = strlen(text);
        if (strcmp(tables[i].kind, kind) != 0) continue;
        snprintf(text + used, bytes - used, "%s%s", used > 0 ? ", " : "; there are ones for ",
                 tables[i].name);
    }
}

status_t table_find(const char *kind, const struct cache_table *tables, int count,
                    const struct cache_model *model, const struct cache_table **table, struct error *error)
{
    const struct cache_table *found = first_that_fits(kind, tables, count, model);
    if (found == NULL) found = first_that_fits(kind, tables_published, published_count(), model);
    if (found == NULL) {
        char names[256] = "";
        names_of_kind(kind, tables, count, names, sizeof names);
        names_of_kind(kind, tables_published, published_count(), names, sizeof names);
        return error_set(
            error, STATUS_NOT_FOUND,
            "no %s table for this model (%s%d layers, %d heads of %d, ffn %d, %d latent channels)%s; make "
            "one with `refrain calibrate`",
            kind, model->experts == 2 ? "2 experts of " : "", model->layers, model->heads, model->head_dim,
            model->ffn_dim, model->latent_channels, names);
    }
    *table = found;
    return STATUS_OK;
}
