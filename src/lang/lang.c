/* Owns the table of languages, read from the embedded INI files, and the sources of their kernels.
 * Runs nothing. */
#include "lang/lang.h"

#include <ctype.h>
#include <ini.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/id.h"
#include "base/mem.h"

extern const struct embedded_file languages_files[];
extern const struct embedded_file kernels_files[];
extern const struct embedded_file scripts_files[];

enum { LANGS_MAX = 64 };

static struct lang *langs[LANGS_MAX];
static size_t lang_count;

/* What the INI callback fills; error is the first thing that was wrong. */
struct parse {
    struct lang *lang;
    char error[160];
};

static void free_strings(const char *const *array, size_t size)
{
    for (size_t i = 0; i < size && array[i]; i++)
        free((void *)(uintptr_t)array[i]);
}

static void lang_free(struct lang *lang)
{
    if (!lang)
        return;
    free((void *)(uintptr_t)lang->name);
    free((void *)(uintptr_t)lang->source);
    free((void *)(uintptr_t)lang->program);
    free((void *)(uintptr_t)lang->hello);
    free((void *)(uintptr_t)lang->kernel);
    free_strings(lang->compile, LANG_ARGS_MAX);
    free_strings(lang->version, LANG_ARGS_MAX);
    free_strings(lang->install, LANG_ARGS_MAX);
    free_strings(lang->prefer, LANG_ARGS_MAX);
    free_strings(lang->installed, LANG_ARGS_MAX);
    free_strings(lang->libraries_env, LANG_ENV_MAX);
    free_strings(lang->kernel_run, LANG_ARGS_MAX);
    free_strings(lang->kernel_compile, LANG_ARGS_MAX);
    free_strings(lang->aliases, LANG_NAMES_MAX);
    free_strings(lang->at_start, LANG_NAMES_MAX);
    free_strings(lang->run, LANG_ARGS_MAX);
    free_strings(lang->env, LANG_ENV_MAX);
    free(lang);
}

/* Appends a copy of size bytes of text; the array stays NULL-ended. */
static bool push(const char **array, size_t max, const char *text, size_t size)
{
    size_t count = 0;
    while (count < max && array[count])
        count++;
    if (count + 1 >= max)
        return false;
    array[count] = strndup(text, size);
    return array[count] != NULL;
}

/* Splits at any of separators and pushes what is between them. */
static bool push_names(const char **array, size_t max, const char *text, const char *separators)
{
    for (const char *cursor = text; *cursor != '\0';) {
        cursor += strspn(cursor, separators);
        size_t size = strcspn(cursor, separators);
        if (size > 0 && !push(array, max, cursor, size))
            return false;
        cursor += size;
    }
    return true;
}

static const struct embedded_file *find_file(const struct embedded_file *files, const char *name,
                                             size_t size)
{
    for (const struct embedded_file *file = files; file->name; file++) {
        if (strlen(file->name) == size && memcmp(file->name, name, size) == 0)
            return file;
    }
    return NULL;
}

/* A word, or the text that it stands for. */
static bool push_word(const char **array, const char *word, size_t size)
{
    static const char before[] = "{script:";
    const size_t before_size = sizeof(before) - 1;
    if (size < before_size + 1 || memcmp(word, before, before_size) != 0 || word[size - 1] != '}')
        return push(array, LANG_ARGS_MAX, word, size);
    const struct embedded_file *file =
        find_file(scripts_files, word + before_size, size - before_size - 1);
    return file && push(array, LANG_ARGS_MAX, file->data, file->size);
}

/* Splits at blanks; a word that begins with a double quote goes to the next one. */
static bool push_words(const char **array, const char *text)
{
    for (const char *cursor = text + strspn(text, " \t"); *cursor != '\0';
         cursor += strspn(cursor, " \t")) {
        bool quoted = *cursor == '"';
        cursor += quoted;
        size_t size = strcspn(cursor, quoted ? "\"" : " \t");
        if ((quoted && cursor[size] == '\0') || !push_word(array, cursor, size))
            return false;
        cursor += size + quoted;
    }
    return true;
}

/* Each line of a value comes by itself. */
static bool add_line(const char **text, const char *line)
{
    char *longer = NULL;
    if (asprintf(&longer, "%s%s%s", *text ? *text : "", *text ? "\n" : "", line) < 0)
        return false;
    free((void *)(uintptr_t)*text);
    *text = longer;
    return true;
}

static bool set_protocol(struct lang *lang, const char *value)
{
    lang->protocol = strcmp(value, "lines") == 0 ? LANG_PROTOCOL_LINES : LANG_PROTOCOL_FRAMES;
    return lang->protocol == LANG_PROTOCOL_LINES || strcmp(value, "frames") == 0;
}

static bool set_scripts(struct lang *lang, const char *value)
{
    lang->scripts = strcmp(value, "yes") == 0;
    return lang->scripts || strcmp(value, "no") == 0;
}

static bool set_language_key(struct lang *lang, const char *name, const char *value)
{
    const struct {
        const char *name, **text;
    } texts[] = {{"name", &lang->name},
                 {"source", &lang->source},
                 {"program", &lang->program},
                 {"kernel", &lang->kernel}};
    const struct {
        const char *name, **argv;
    } commands[] = {{"compile", lang->compile},
                    {"run", lang->run},
                    {"version", lang->version},
                    {"kernel_run", lang->kernel_run},
                    {"kernel_compile", lang->kernel_compile}};
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        if (strcmp(name, texts[i].name) == 0)
            return !*texts[i].text && (*texts[i].text = strdup(value)) != NULL;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(name, commands[i].name) == 0)
            return push_words(commands[i].argv, value);
    }
    if (strcmp(name, "aliases") == 0)
        return push_names(lang->aliases, LANG_NAMES_MAX, value, ", \t");
    if (strcmp(name, "at_start") == 0)
        return push_names(lang->at_start, LANG_NAMES_MAX, value, ", \t");
    if (strcmp(name, "hello") == 0)
        return add_line(&lang->hello, value);
    if (strcmp(name, "protocol") == 0)
        return set_protocol(lang, value);
    return strcmp(name, "scripts") == 0 && set_scripts(lang, value);
}

static bool set_libraries_key(struct lang *lang, const char *name, const char *value)
{
    if (strcmp(name, "install") == 0)
        return push_words(lang->install, value);
    if (strcmp(name, "prefer") == 0)
        return push_words(lang->prefer, value);
    if (strcmp(name, "installed") == 0)
        return push_words(lang->installed, value);
    if (strcmp(name, "notation") == 0)
        return (lang->notation = requirement_notation(value)) != REQUIREMENT_NONE;
    return strcmp(name, "env") == 0 && strchr(value, '=') &&
           push(lang->libraries_env, LANG_ENV_MAX, value, strlen(value));
}

static int on_entry(void *user, const char *section, const char *name, const char *value)
{
    struct parse *parse = user;
    bool good = false;
    if (strcmp(section, "language") == 0) {
        good = set_language_key(parse->lang, name, value);
    } else if (strcmp(section, "libraries") == 0) {
        good = set_libraries_key(parse->lang, name, value);
    } else if (strcmp(section, "env") == 0) {
        char entry[512];
        int size = snprintf(entry, sizeof(entry), "%s=%s", name, value);
        good = size > 0 && (size_t)size < sizeof(entry) &&
               push(parse->lang->env, LANG_ENV_MAX, entry, (size_t)size);
    }
    if (!good && parse->error[0] == '\0')
        (void)snprintf(parse->error, sizeof(parse->error), "[%s] %s is not understood", section,
                       name);
    return good ? 1 : 0;
}

static bool name_matches(const struct lang *lang, const char *name)
{
    if (strcasecmp(lang->name, name) == 0)
        return true;
    for (size_t i = 0; i < LANG_NAMES_MAX && lang->aliases[i]; i++) {
        if (strcasecmp(lang->aliases[i], name) == 0)
            return true;
    }
    return false;
}

static const struct lang *find(const char *name)
{
    for (size_t i = 0; i < lang_count; i++) {
        if (name_matches(langs[i], name))
            return langs[i];
    }
    return NULL;
}

static bool is_plain_file(const char *name)
{
    return name[0] != '\0' && name[0] != '.' && !strchr(name, '/');
}

static int check_kernel(const struct lang *lang, const char *file, struct err *err)
{
    if ((lang->kernel != NULL) != (lang->kernel_run[0] != NULL))
        return err_set(err, ERR_INTERNAL, "languages/%s: kernel and kernel_run go together", file);
    if (lang->kernel_compile[0] && !lang->kernel)
        return err_set(err, ERR_INTERNAL, "languages/%s: kernel_compile needs a kernel", file);
    if (lang->kernel && !lang_kernel_source(lang))
        return err_set(err, ERR_INTERNAL, "languages/%s: there is no kernels/%s", file,
                       lang->kernel);
    if (lang->protocol == LANG_PROTOCOL_LINES && lang->scripts)
        return err_set(err, ERR_INTERNAL, "languages/%s: by lines a kernel takes cells only", file);
    return 0;
}

static int check(const struct lang *lang, const char *file, struct err *err)
{
    if (!lang->name || !id_is_name(lang->name, 32))
        return err_set(err, ERR_INTERNAL, "languages/%s: [language] name is missing or odd", file);
    if (!lang->source || !is_plain_file(lang->source))
        return err_set(err, ERR_INTERNAL, "languages/%s: source has to be a plain file name", file);
    if (lang->program && (!is_plain_file(lang->program) || !lang->compile[0]))
        return err_set(err, ERR_INTERNAL,
                       "languages/%s: program is the plain file that compile"
                       " makes",
                       file);
    if (!lang->run[0] || !lang->version[0] || !lang->hello)
        return err_set(err, ERR_INTERNAL, "languages/%s: run, version or hello is missing", file);
    if ((lang->install[0] != NULL) != (lang->notation != REQUIREMENT_NONE))
        return err_set(err, ERR_INTERNAL, "languages/%s: install and notation go together", file);
    int result = check_kernel(lang, file, err);
    if (result != 0)
        return result;
    const char *taken = find(lang->name) ? lang->name : NULL;
    for (size_t i = 0; !taken && i < LANG_NAMES_MAX && lang->aliases[i]; i++)
        taken = find(lang->aliases[i]) ? lang->aliases[i] : NULL;
    if (taken)
        return err_set(err, ERR_INTERNAL, "languages/%s: the name %s is taken", file, taken);
    if (lang_count >= LANGS_MAX)
        return err_set(err, ERR_INTERNAL, "languages/%s: more than %d languages", file, LANGS_MAX);
    return 0;
}

static int load_file(const struct embedded_file *file, struct err *err)
{
    struct parse parse = {.lang = calloc(1, sizeof(*parse.lang))};
    if (!parse.lang)
        return err_set(err, ERR_INTERNAL, "no memory for a language");
    parse.lang->scripts = true;
    int status = ini_parse_string(file->data, on_entry, &parse);
    int result = 0;
    if (status != 0)
        result = err_set(err, ERR_INTERNAL, "languages/%s: line %d: %s", file->name, status,
                         parse.error[0] != '\0' ? parse.error : "not INI");
    if (result == 0)
        result = check(parse.lang, file->name, err);
    if (result != 0) {
        lang_free(parse.lang);
        return result;
    }
    size_t at = lang_count++;
    for (; at > 0 && strcmp(langs[at - 1]->name, parse.lang->name) > 0; at--)
        langs[at] = langs[at - 1];
    langs[at] = parse.lang;
    return 0;
}

int lang_load(struct err *err)
{
    for (const struct embedded_file *file = languages_files; file->name; file++) {
        int result = load_file(file, err);
        if (result != 0) {
            lang_unload();
            return result;
        }
    }
    return 0;
}

int lang_find(const char *name, const struct lang **out, struct err *err)
{
    const struct lang *lang = find(name);
    if (lang) {
        *out = lang;
        return 0;
    }
    char known[200] = "";
    size_t used = 0;
    for (size_t i = 0; i < lang_count && langs[i] && used < sizeof(known) - 1; i++) {
        int size =
            snprintf(known + used, sizeof(known) - used, "%s%s", i > 0 ? ", " : "", langs[i]->name);
        used += size > 0 ? (size_t)size : 0;
    }
    return err_public(err, ERR_BAD_INPUT, "lang: \"%.32s\" is not a language here; there is: %s",
                      name, known);
}

const struct embedded_file *lang_kernel_source(const struct lang *lang)
{
    return lang->kernel ? find_file(kernels_files, lang->kernel, strlen(lang->kernel)) : NULL;
}

const struct lang *const *lang_all(size_t *out_count)
{
    *out_count = lang_count;
    return (const struct lang *const *)langs;
}

void lang_unload(void)
{
    for (size_t i = 0; i < lang_count; i++)
        lang_free(langs[i]);
    memset(langs, 0, sizeof(langs));
    lang_count = 0;
}
