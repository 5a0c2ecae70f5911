/* verb_policies.c - `refrain policies`: what --cache takes. Asks nobody. */
#include "client/cli.h"
#include "client/jobjson.h"

#include "cache/settings.h"

#include <stdio.h>
#include <string.h>

static json_t *parameters_json(const struct parameter *parameters, int count)
{
    json_t *array = json_array();
    for (int i = 0; i < count; i++) {
        const struct parameter *parameter = &parameters[i];
        json_t *object =
            json_pack("{s:s, s:s, s:f, s:f, s:f}", "name", parameter->name, "help", parameter->help,
                      "default", parameter->standard, "min", parameter->min, "max", parameter->max);
        if (parameter->author) json_object_set_new(object, "author", json_string(parameter->author));
        json_array_append_new(array, object);
    }
    return array;
}

static void print_json(const char *kind, const char *name, const char *summary, const char *source,
                       const char *only, json_t *parameters)
{
    json_t *object = json_pack("{s:s, s:s, s:s, s:o}", kind, name, "summary", summary, "source", source,
                               "parameters", parameters);
    if (!only || strcmp(only, name) == 0)
        jobjson_print(object);
    else
        json_decref(object);
}

static void print_all_json(const char *only)
{
    for (const struct cache_preset *p = cache_presets; p->name; p++)
        if (!only || strcmp(only, p->name) == 0)
            jobjson_print(
                json_pack("{s:s, s:s, s:s}", "preset", p->name, "text", p->text, "summary", p->summary));
    for (int i = 0; policies[i]; i++) {
        const struct policy *p = policies[i];
        print_json("policy", p->name, p->summary, p->source, only,
                   parameters_json(p->parameters, p->parameter_count));
    }
    for (int i = 0; forecasts[i]; i++) {
        const struct forecast *f = forecasts[i];
        print_json("forecast", f->name, f->summary, f->source, only,
                   parameters_json(f->parameters, f->parameter_count));
    }
}

/* Whether there is a preset, policy or forecast of that name. */
static bool known(const char *name)
{
    for (const struct cache_preset *p = cache_presets; p->name; p++)
        if (strcmp(p->name, name) == 0) return true;
    for (int i = 0; policies[i]; i++)
        if (strcmp(policies[i]->name, name) == 0) return true;
    for (int i = 0; forecasts[i]; i++)
        if (strcmp(forecasts[i]->name, name) == 0) return true;
    return false;
}

int verb_policies(struct cli *cli)
{
    struct error error;
    status_t status = cli_operands(cli, 0, 1, "NAME, of a policy, forecast or preset", &error);
    const char *name =
        !status && options_operand_count(cli->options) ? options_operand(cli->options, 0) : NULL;
    if (!status && name && !known(name))
        status = error_set(&error, STATUS_INVALID,
                           "'%.64s' is no policy, forecast or preset; `refrain policies` lists what there is",
                           name);
    if (status) return cli_fail(cli, status, &error);
    if (cli->settings.json)
        print_all_json(name);
    else
        cache_settings_help(name, stdout);
    return EXIT_CODE_OK;
}
