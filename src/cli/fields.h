/* From the words of a command line to the members of a request. */
#ifndef BERTH_CLI_FIELDS_H
#define BERTH_CLI_FIELDS_H

#include <jansson.h>

#include "base/buf.h"
#include "base/err.h"

enum { FIELDS_BODY_MAX = 4000000 }; /* the server takes bodies of up to 4 MB */

/* Options that say where code runs, the same for a run and a session. The letters are getopt's
 * results; where a command gives none on the command line, only the long name counts. */
#define FIELDS_PLACE_OPTIONS                                                                       \
    {"lang", required_argument, NULL, 'l'}, {"ram", required_argument, NULL, 'r'},                 \
        {"cpu", required_argument, NULL, 'u'}, {"storage", required_argument, NULL, 's'},          \
        {"image", required_argument, NULL, 'I'}, {"profile", required_argument, NULL, 'p'},        \
        {"engine", required_argument, NULL, 'G'}, {"runtime", required_argument, NULL, 'R'},       \
        {"env", required_argument, NULL, 'e'}, {"network", required_argument, NULL, 'N'},          \
        {"allow", required_argument, NULL, 'A'},                                                   \
    {                                                                                              \
        "library", required_argument, NULL, 'L'                                                    \
    }

/* The lines of a help text for them. */
#define FIELDS_PLACE_HELP                                                                          \
    "      --ram SIZE          memory limit, such as 512MB or 1GiB\n"                              \
    "      --cpu CORES         processor limit, such as 2 or 0.5\n"                                \
    "      --storage SIZE      size of the writable file system\n"                                 \
    "      --image NAME        what is under / (default host: the server's own system)\n"          \
    "      --profile PROFILE   strict (default), or container: root inside\n"                      \
    "      --engine NAME       what runs it, where the server has a choice: berth engines\n"       \
    "      --runtime NAME      and in which of its ways, such as runsc\n"                          \
    "  -e, --env NAME=VALUE    set a variable; may be repeated\n"                                  \
    "      --network MODE      none (default), or egress: out to what the operator allows\n"       \
    "      --allow RULE        egress to these alone: HOST, HOST:PORT, *.HOST; may be\n"           \
    "                          repeated\n"                                                         \
    "      --library NAME      have a library of the language, such as numpy==1.26; may be\n"      \
    "                          repeated\n"

/* Sets `network` as --network and --allow do. */
int fields_set_network(json_t *request, const char *mode, struct err *err);
int fields_add_allow(json_t *request, const char *rule, struct err *err);

/* Takes one of FIELDS_PLACE_OPTIONS into the request. 1: it is none of them. */
int fields_take_place(int option, const char *value, json_t *request, struct err *err);

/* Seconds with fractions, as a number. ERR_BAD_INPUT when value is none. */
int fields_set_seconds(json_t *request, const char *key, const char *value, struct err *err);

/* The member of that name, made by make() when missing. Borrowed. */
json_t *fields_member(json_t *request, const char *key, json_t *(*make)(void));

/* Reads a whole file, FIELDS_BODY_MAX bytes at most (ERR_TOO_LARGE); blocks. */
int fields_read_path(const char *path, struct buf *out, struct err *err);

/* Where code and its standard input come from. */
struct fields_sources {
    const char *code;      /* the code itself; else NULL */
    const char *code_path; /* a file, or "-" for standard input; used without code */
    const char
        *stdin_path; /* NULL: our standard input, unless it is a terminal or holds the code */
};

/* Reads them into "code" and "stdin", which is left out when empty; blocks. */
int fields_read_sources(const struct fields_sources *sources, json_t *request, struct err *err);

#endif
