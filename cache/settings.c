/*
 * settings.c - a job's caching as text and as values; see settings.h for the grammar. What only the job can
 * tell is in plan.c.
 *
 * The text comes from strangers: it is copied, bounded and looked through for anything but printable ASCII
 * before anything is made of it. Numbers are decimal and finite.
 */
#include "cache/settings.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include "cache/masks.h"
#include "cache/names.h"

enum { ITEMS = 64, NUMBER_CHARACTERS = 40, LIST_BYTES = 300 };

/* A text while it is read. What was given already is marked, so that nothing is said twice. */
struct reader {
    char text[CACHE_TEXT_BYTES]; /* cut to pieces in place */
    char *item[ITEMS];
    int items;
    struct cache_settings settings;
    bool given[POLICY_PARAMETERS], forecast_given[POLICY_PARAMETERS];
    struct error *error;
};

static status_t refuse(struct reader *r, const char *format, ...) __attribute__((format(printf, 2, 3)));

static status_t refuse(struct reader *r, const char *format, ...)
{
    char sentence[ERROR_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    return error_set(r->error, STATUS_INVALID, "cache: %s", sentence);
}

/* --------------------------------------------------------------------------------------------- numbers */

/* The whole of `text` as a decimal number. */
static bool read_number(const char *text, double *value)
{
    char *end;
    size_t length = strlen(text);
    if (length == 0 || length > NUMBER_CHARACTERS || text[strspn(text, "0123456789+-.eE")] != 0) return false;
    double number = strtod(text, &end); /* only LC_CTYPE is ever set: the decimal point is a point */
    if (*end != 0 || !isfinite(number)) return false;
    *value = number + 0.0; /* -0 becomes 0 */
    return true;
}

/* The shortest text that reads back to the same number. */
static void write_number(double value, char *text, size_t bytes)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, bytes, "%.*g", digits, value);
        if (strtod(text, NULL) == value) return;
    }
}

static bool read_flag(const char *text, double *value)
{
    static const char *const no[] = {"0", "off", "false", "no"}, *const yes[] = {"1", "on", "true", "yes"};
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        if (strcmp(text, no[i]) != 0 && strcmp(text, yes[i]) != 0) continue;
        *value = strcmp(text, yes[i]) == 0;
        return true;
    }
    return false;
}

/* item: the parameter as it was given, for the sentence. */
static status_t read_value(struct reader *r, const struct parameter *parameter, const char *item,
                           const char *text, double *value)
{
    double number = 0;
    if (parameter->type == PARAMETER_FLAG) {
        if (!read_flag(text, &number)) return refuse(r, "%s '%.40s': must be 0 or 1", item, text);
    } else if (!read_number(text, &number)) {
        return refuse(r, "%s '%.40s': must be a number, %.15g to %.15g", item, text, parameter->min,
                      parameter->max);
    } else if (parameter->type == PARAMETER_WHOLE && number != floor(number)) {
        return refuse(r, "%s %s: must be a whole number, %.15g to %.15g", item, text, parameter->min,
                      parameter->max);
    } else if (number < parameter->min || number > parameter->max) {
        return refuse(r, "%s %s: must be %.15g to %.15g", item, text, parameter->min, parameter->max);
    }
    *value = number;
    return STATUS_OK;
}

/* ----------------------------------------------------------------------------------------------- items */

static int find_parameter(const struct parameter *parameters, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(parameters[i].name, name) == 0) return i;
    for (int i = 0; i < count; i++)
        if (parameters[i].author != NULL && strcmp(parameters[i].author, name) == 0) return i;
    return -1;
}

static int find_tag(const struct policy *policy, const char *letters, size_t length)
{
    for (int i = 0; i < policy->parameter_count; i++) {
        const char *tag = policy->parameters[i].tag;
        if (tag != NULL && strlen(tag) == length && memcmp(tag, letters, length) == 0) return i;
    }
    return -1;
}

/* "N, first, grow" */
static const char *list_parameters(const struct parameter *parameters, int count, char list[LIST_BYTES])
{
    size_t used = 0;
    list[0] = 0;
    for (int i = 0; i < count && used < LIST_BYTES; i++)
        used +=
            (size_t)snprintf(list + used, LIST_BYTES - used, "%s%s", i > 0 ? ", " : "", parameters[i].name);
    return list;
}

static status_t set_parameter(struct reader *r, int index, const char *item, const char *text)
{
    if (r->given[index]) return refuse(r, "%s is given twice", item);
    r->given[index] = true;
    return read_value(r, &r->settings.policy->parameters[index], item, text, &r->settings.value[index]);
}

/* "F1B0_W4_R0.12": letters that are a parameter's tag, then its number. */
static status_t read_tags(struct reader *r, const char *item)
{
    const struct policy *policy = r->settings.policy;
    const char *at = item;
    while (*at != 0) {
        size_t letters = 0, digits;
        while (isalpha((unsigned char)at[letters])) letters++;
        digits = strspn(at + letters, "0123456789.");
        int index = find_tag(policy, at, letters);
        char tag[NUMBER_CHARACTERS], number[NUMBER_CHARACTERS], list[LIST_BYTES];
        if (letters == 0 || index < 0 || digits == 0 || letters >= sizeof tag || digits >= sizeof number)
            return refuse(r, "'%.40s': %s takes name=value with %s, forecast=NAME, mask=MASK", item,
                          policy->name, list_parameters(policy->parameters, policy->parameter_count, list));
        snprintf(tag, sizeof tag, "%.*s", (int)letters, at);
        snprintf(number, sizeof number, "%.*s", (int)digits, at + letters);
        status_t status = set_parameter(r, index, tag, number);
        if (status != STATUS_OK) return status;
        at += letters + digits;
        if (*at == '_' && at[1] != 0) at++;
    }
    return STATUS_OK;
}

static status_t read_mask(struct reader *r, const char *text)
{
    if (r->settings.mask[0] != 0) return refuse(r, "mask is given twice");
    if (strlen(text) >= sizeof r->settings.mask)
        return refuse(r, "mask of %zu characters: at most %d steps", strlen(text), CACHE_STEPS);
    status_t status = mask_check(text, r->error);
    if (status != STATUS_OK) {
        error_prefix(r->error, "cache");
        return status;
    }
    memcpy(r->settings.mask, text, strlen(text) + 1);
    return STATUS_OK;
}

static status_t read_forecast_parameter(struct reader *r, const char *name, const char *item,
                                        const char *text)
{
    const struct forecast *forecast = r->settings.forecast;
    int index = find_parameter(forecast->parameters, forecast->parameter_count, name);
    if (index < 0) {
        char list[LIST_BYTES];
        list_parameters(forecast->parameters, forecast->parameter_count, list);
        return refuse(r, "%.40s: forecast %s has %s%s", item, forecast->name,
                      *list == 0 ? "no parameters" : "the parameters ", list);
    }
    if (r->forecast_given[index]) return refuse(r, "%s is given twice", item);
    r->forecast_given[index] = true;
    return read_value(r, &forecast->parameters[index], item, text, &r->settings.forecast_value[index]);
}

/* Everything but forecast=NAME, which was read before. */
static status_t read_item(struct reader *r, char *item)
{
    const struct policy *policy = r->settings.policy;
    if (*item == 0) return refuse(r, "an item is empty: two commas, or one at an end");
    char *equals = strchr(item, '=');
    if (equals == NULL) return read_tags(r, item);
    *equals = 0;
    const char *text = equals + 1;
    if (strcmp(item, "mask") == 0 || strcmp(item, "steps_computation_mask") == 0) return read_mask(r, text);
    if (strncmp(item, "forecast.", strlen("forecast.")) == 0)
        return read_forecast_parameter(r, item + strlen("forecast."), item, text);
    int index = find_parameter(policy->parameters, policy->parameter_count, item);
    if (index >= 0) return set_parameter(r, index, item, text);
    char list[LIST_BYTES];
    return refuse(r, "%.40s: unknown; %s takes %s, forecast=NAME, mask=MASK", item, policy->name,
                  list_parameters(policy->parameters, policy->parameter_count, list));
}

/* -------------------------------------------------------------------------------------------- forecast */

static void forecast_defaults(struct reader *r, const struct forecast *forecast)
{
    r->settings.forecast = forecast;
    for (int i = 0; i < forecast->parameter_count; i++)
        r->settings.forecast_value[i] = forecast->parameters[i].standard;
}

/* "taylor", or with its order: "taylor2". A name that ends in digits by itself ("l2p" does not) comes first.
 */
static status_t read_forecast(struct reader *r, const char *name)
{
    char stem[64];
    size_t length = strlen(name);
    const struct forecast *forecast = forecast_find(name);
    if (forecast != NULL) {
        forecast_defaults(r, forecast);
        return STATUS_OK;
    }
    while (length > 0 && isdigit((unsigned char)name[length - 1])) length--;
    if (length < sizeof stem && name[length] != 0) {
        snprintf(stem, sizeof stem, "%.*s", (int)length, name);
        forecast = forecast_find(stem);
    }
    if (forecast == NULL) {
        char list[LIST_BYTES];
        return refuse(r, "forecast %.40s: unknown; there are %s", name, forecast_names(list, sizeof list));
    }
    forecast_defaults(r, forecast);
    int order = find_parameter(forecast->parameters, forecast->parameter_count, "order");
    if (order < 0) return refuse(r, "forecast %.40s: %s has no order", name, stem);
    r->forecast_given[order] = true;
    return read_value(r, &forecast->parameters[order], "forecast.order", name + length,
                      &r->settings.forecast_value[order]);
}

/* The item forecast=NAME is taken out of the list: its parameters may stand before it. */
static status_t take_forecast(struct reader *r)
{
    static const char prefix[] = "forecast=";
    const struct policy *policy = r->settings.policy;
    const char *name = NULL;
    int kept = 0;
    for (int i = 0; i < r->items; i++) {
        bool is_forecast = strncmp(r->item[i], prefix, strlen(prefix)) == 0;
        if (!is_forecast) {
            r->item[kept++] = r->item[i];
            if (policy->weights == NULL || strncmp(r->item[i], "forecast.", strlen("forecast.")) != 0)
                continue;
        }
        if (policy->weights != NULL)
            return refuse(r, "%.40s: %s makes its own forecast", r->item[i], policy->name);
        if (name != NULL) return refuse(r, "forecast is given twice");
        name = r->item[i] + strlen(prefix);
    }
    r->items = kept;
    if (name == NULL) name = policy->forecast != NULL ? policy->forecast : "reuse";
    return read_forecast(r, name);
}

/* ------------------------------------------------------------------------------------------- the whole */

static status_t split(struct reader *r, char *items)
{
    for (char *at = items; at != NULL;) {
        if (r->items == ITEMS) return refuse(r, "more than %d items", ITEMS);
        r->item[r->items++] = at;
        at = strchr(at, ',');
        if (at != NULL) *at++ = 0;
    }
    return STATUS_OK;
}

static status_t read_policy(struct reader *r)
{
    char *items = strchr(r->text, ':');
    if (items != NULL) *items++ = 0;
    const struct policy *policy = policy_find(r->text);
    if (policy == NULL) {
        char near[NAME_BYTES + 32];
        return refuse(r, "%.40s: unknown%s (off, safe, balanced, fast, ..., or a policy: `refrain policies`)",
                      *r->text != 0 ? r->text : "''", did_you_mean(r->text, near, sizeof near));
    }
    r->settings.policy = policy;
    for (int i = 0; i < policy->parameter_count; i++) r->settings.value[i] = policy->parameters[i].standard;
    status_t status = items != NULL ? split(r, items) : STATUS_OK;
    if (status == STATUS_OK) status = take_forecast(r);
    for (int i = 0; status == STATUS_OK && i < r->items; i++) status = read_item(r, r->item[i]);
    return status;
}

/* Only what can be printed and is not a space. */
static status_t check_characters(struct reader *r)
{
    for (const char *at = r->text; *at != 0; at++)
        if (*at <= ' ' || *at > '~')
            return refuse(r, "character %#x at %td: only printable ASCII without spaces is allowed",
                          (unsigned char)*at, at - r->text);
    return STATUS_OK;
}

static bool is_off(const char *text)
{
    return text == NULL || *text == 0 || strcmp(text, "off") == 0;
}

status_t cache_settings_read(const char *text, struct cache_settings *settings, struct error *error)
{
    struct reader r = {.error = error};
    if (!is_off(text)) {
        if (strnlen(text, sizeof r.text) == sizeof r.text)
            return refuse(&r, "longer than %d characters", CACHE_TEXT_BYTES - 1);
        memcpy(r.text, text, strlen(text) + 1);
        status_t status = check_characters(&r);
        if (status != STATUS_OK) return status;
        const struct cache_preset *preset = preset_find(text);
        size_t name = strcspn(r.text, ":");
        if (preset != NULL) {
            snprintf(r.text, sizeof r.text, "%s", preset->text);
        } else if (r.text[name] == ':') {
            r.text[name] = 0;
            preset = preset_find(r.text);
            if (preset != NULL)
                return refuse(&r, "%s is a preset and takes no items; it stands for %s", preset->name,
                              preset->text);
            r.text[name] = ':';
        }
        if (!is_off(r.text)) status = read_policy(&r);
        if (status != STATUS_OK) return status;
    }
    *settings = r.settings;
    return STATUS_OK;
}

/* --------------------------------------------------------------------------------------------- writing */

struct writer {
    char *text;
    size_t bytes, used;
    char before; /* of the next item */
};

static void write_item(struct writer *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void write_item(struct writer *w, const char *format, ...)
{
    va_list arguments;
    if (w->used + 2 > w->bytes) return;
    if (w->before != 0) w->text[w->used++] = w->before;
    va_start(arguments, format);
    int written = vsnprintf(w->text + w->used, w->bytes - w->used, format, arguments);
    va_end(arguments);
    w->used += strnlen(w->text + w->used, written > 0 ? (size_t)written : 0);
    w->before = w->before == 0 ? ':' : ',';
}

static void write_parameters(struct writer *w, const char *prefix, const struct parameter *parameters,
                             int count, const double *value)
{
    for (int i = 0; i < count; i++) {
        char number[NUMBER_CHARACTERS];
        write_number(value[i], number, sizeof number);
        write_item(w, "%s%s=%s", prefix, parameters[i].name, number);
    }
}

void cache_settings_text(const struct cache_settings *settings, char *text, size_t bytes)
{
    struct writer w = {.text = text, .bytes = bytes};
    const struct policy *policy = settings->policy;
    if (bytes == 0) return;
    text[0] = 0;
    write_item(&w, "%s", policy != NULL ? policy->name : "off");
    if (policy == NULL) return;
    write_parameters(&w, "", policy->parameters, policy->parameter_count, settings->value);
    if (settings->mask[0] != 0) write_item(&w, "mask=%s", settings->mask);
    if (policy->weights != NULL) return;
    const struct forecast *forecast = settings->forecast;
    write_item(&w, "forecast=%s", forecast->name);
    write_parameters(&w, "forecast.", forecast->parameters, forecast->parameter_count,
                     settings->forecast_value);
}
