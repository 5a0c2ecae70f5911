/*
 * help.c - what `refrain policies` prints: everything comes from the tables that also drive parsing.
 */
#include "cache/masks.h"
#include "cache/names.h"

#include <string.h>

enum { WIDTH = 100, NAME_COLUMN = 16 };

/* How the survey sorts them (arXiv 2510.19755). A policy that is in no family is listed after them. */
static const struct family {
    const char *title, *members[8];
} families[] = {
    {"static", {"interval", "mask", "magcache"}},
    {"dynamic in time", {"teacache", "fbcache", "dbcache", "easycache", "dicache", "seacache", "sencache"}},
    {"dynamic in layers", {"dbprune", "layers"}},
    {"speculative", {"specache"}},
    {"solver level", {"zeus", "meancache"}},
    {"measuring", {"calibrate"}},
};
enum { FAMILIES = sizeof families / sizeof *families };

/* ----------------------------------------------------------------------------------------------- layout */

/* Words of `text` from `column` on (where the line is already), broken at WIDTH; ends the line. */
static void wrapped(FILE *out, int column, const char *text)
{
    int at = column;
    while (*text != 0) {
        int word = (int)strcspn(text, " ");
        if (at > column && at + 1 + word > WIDTH) {
            fprintf(out, "\n%*s", column, "");
            at = column;
        }
        at += fprintf(out, "%s%.*s", at > column ? " " : "", word, text);
        text += word;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void named_line(FILE *out, int indent, int column, const char *name, const char *text)
{
    int used = fprintf(out, "%*s%s", indent, "", name);
    if (used >= column)
        fprintf(out, "\n%*s", column, "");
    else
        fprintf(out, "%*s", column - used, "");
    wrapped(out, column, text);
}

static int family_of(const char *name)
{
    for (int f = 0; f < FAMILIES; f++)
        for (int i = 0; i < 8 && families[f].members[i] != NULL; i++)
            if (strcmp(families[f].members[i], name) == 0) return f;
    return FAMILIES;
}

/* ------------------------------------------------------------------------------------------- parameters */

static void print_range(FILE *out, const struct parameter *p)
{
    if (p->type == PARAMETER_FLAG)
        fprintf(out, "%s, 0 or 1", p->standard != 0 ? "1" : "0");
    else
        fprintf(out, "%.15g, %s%.15g to %.15g", p->standard, p->type == PARAMETER_WHOLE ? "whole, " : "",
                p->min, p->max);
}

static void print_parameters(FILE *out, const char *prefix, const struct parameter *parameters, int count)
{
    for (int i = 0; i < count; i++) {
        const struct parameter *p = &parameters[i];
        fprintf(out, "  %s%s  (default ", prefix, p->name);
        print_range(out, p);
        if (p->author != NULL) fprintf(out, "; also %s", p->author);
        if (p->tag != NULL) fprintf(out, "; tag %s", p->tag);
        fprintf(out, ")\n%6s", "");
        wrapped(out, 6, p->help);
    }
}

static void print_policy(FILE *out, const struct policy *p)
{
    fprintf(out, "policy %s: %s\n", p->name, p->summary);
    named_line(out, 2, 10, "source", p->source);
    if (p->table != NULL)
        fprintf(out, "  needs   a table of kind %s: published, or made with `refrain calibrate`\n", p->table);
    if (p->weights != NULL)
        fprintf(out, "  forecast is its own\n");
    else
        fprintf(out, "  forecast %s unless the job names another\n",
                p->forecast != NULL ? p->forecast : "reuse");
    print_parameters(out, "", p->parameters, p->parameter_count);
}

static void print_forecast(FILE *out, const struct forecast *f)
{
    fprintf(out, "forecast %s: %s\n", f->name, f->summary);
    named_line(out, 2, 10, "source", f->source);
    if (f->table != NULL)
        fprintf(out, "  needs   a table of kind %s, made with `refrain calibrate`\n", f->table);
    print_parameters(out, "forecast.", f->parameters, f->parameter_count);
}

static void print_preset(FILE *out, const struct cache_preset *p)
{
    fprintf(out, "preset %s: %s\n  %s\n", p->name, p->summary, p->text);
    struct cache_settings settings;
    char text[CACHE_TEXT_BYTES];
    if (cache_settings_read(p->text, &settings, NULL) != STATUS_OK) return;
    cache_settings_text(&settings, text, sizeof text);
    if (strcmp(text, p->text) != 0) fprintf(out, "  in full: %s\n", text);
}

/* ------------------------------------------------------------------------------------------- everything */

static void print_masks(FILE *out)
{
    const char *const *names = mask_names();
    fprintf(out, "masks, mask=NAME:\n");
    for (int i = 0; names[i] != NULL; i++) {
        int steps;
        const char *about = mask_about(i, &steps);
        fprintf(out, "  %-30s", names[i]);
        if (steps > 0) fprintf(out, "%3d steps, computed ", steps);
        fprintf(out, "%s\n", about);
    }
    fprintf(
        out,
        "\nOr written out: a digit per step, 1 computed (1110100...), or the steps computed (0-9+14+19).\n");
}

static void print_all(FILE *out)
{
    fprintf(out,
            "--cache PRESET, or POLICY:name=value,... with forecast=NAME, forecast.name=value, mask=MASK\n");
    for (int f = 0; f <= FAMILIES; f++) {
        fprintf(out, "\npolicies, %s\n", f < FAMILIES ? families[f].title : "others");
        for (int i = 0; policies[i] != NULL; i++)
            if (family_of(policies[i]->name) == f)
                named_line(out, 2, NAME_COLUMN, policies[i]->name, policies[i]->summary);
    }
    fprintf(out, "\nforecasts, for any policy that makes none of its own\n");
    for (int i = 0; forecasts[i] != NULL; i++)
        named_line(out, 2, NAME_COLUMN, forecasts[i]->name, forecasts[i]->summary);
    fprintf(out, "\npresets\n");
    for (int i = 0; cache_presets[i].name != NULL; i++) {
        named_line(out, 2, NAME_COLUMN, cache_presets[i].name, cache_presets[i].summary);
        if (strcmp(cache_presets[i].name, cache_presets[i].text) != 0)
            fprintf(out, "%*s%s\n", NAME_COLUMN, "", cache_presets[i].text);
    }
    fprintf(out, "\n`refrain policies NAME` tells everything about one; `refrain policies masks` lists the "
                 "step masks.\n");
}

void cache_settings_help(const char *name, FILE *out)
{
    if (name == NULL) {
        print_all(out);
        return;
    }
    const struct policy *policy = policy_find(name);
    const struct forecast *forecast = forecast_find(name);
    const struct cache_preset *preset = preset_find(name);
    bool masks = strcmp(name, "masks") == 0;
    if (preset != NULL) print_preset(out, preset);
    if (policy != NULL) print_policy(out, policy);
    if (forecast != NULL) print_forecast(out, forecast);
    if (masks) print_masks(out);
    if (preset == NULL && policy == NULL && forecast == NULL && !masks) {
        char near[NAME_BYTES + 32];
        fprintf(out, "there is no policy, forecast or preset %s%s\n", name,
                did_you_mean(name, near, sizeof near));
    }
}
