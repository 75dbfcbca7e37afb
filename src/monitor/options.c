/* Owns the reading of berth-monitor's options. Touches nothing but argv and the environment. */
#include "monitor/options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/parse.h"

const char *monitor_options_help(void)
{
    return "usage: berth-monitor [--host HOST] [--port PORT] [--state DIR]\n"
           "\n"
           "Starts berth: the server and the engine that makes sandboxes; keeps them running.\n"
           "`berth serve` is the usual way to start it.\n"
           "\n"
           "  --host HOST   address to listen on (HOST, API_HOST; default 127.0.0.1)\n"
           "  --port PORT   port to listen on, 0 for a free one (PORT, API_PORT; default 8000)\n"
           "  --state DIR   state folder (BERTH_STATE; default /var/lib/berth as root, else\n"
           "                $XDG_STATE_HOME/berth or ~/.local/state/berth)\n"
           "  --hold        keep the control group of this unit for sandboxes, nothing else\n"
           "  --help        this text\n"
           "\n"
           "BERTH_USER names the system user of the server (default berth), BERTH_EGRESS_USER "
           "that\n"
           "of the sandboxes' way out (default berth-egress, else nobody), BERTH_CGROUP the\n"
           "cgroup v2 group for sandboxes (default: what systemd delegated, else the root),\n"
           "BERTH_IMAGES the folder of images (default: images/ of the state folder),\n"
           "BERTH_ENGINES what makes sandboxes: native, docker or both (default native).\n";
}

/* The first of two variables that is set and not empty, else a default. */
static const char *setting(const char *first, const char *second, const char *fallback)
{
    const char *value = getenv(first);
    if ((!value || !*value) && second)
        value = getenv(second);
    return value && *value ? value : fallback;
}

/* NULL when there is no place for it. */
static const char *default_state(char out[static PATH_MAX])
{
    const char *base = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    int size = 0;
    if (geteuid() == 0)
        size = snprintf(out, PATH_MAX, "/var/lib/berth");
    else if (base && base[0] == '/')
        size = snprintf(out, PATH_MAX, "%s/berth", base);
    else if (home && home[0] == '/')
        size = snprintf(out, PATH_MAX, "%s/.local/state/berth", home);
    return size > 0 && size < PATH_MAX ? out : NULL;
}

/* Whether a list of words, by spaces, has one. The server refuses words that mean nothing. */
static bool has_word(const char *list, const char *wanted)
{
    size_t size = strlen(wanted);
    while (*list != '\0') {
        list += strspn(list, " \t");
        size_t word = strcspn(list, " \t");
        if (word == size && memcmp(list, wanted, size) == 0)
            return true;
        list += word;
    }
    return false;
}

static int parse_port(const char *text, uint16_t *out, struct err *err)
{
    uint64_t port = 0;
    int result = parse_u64(text, 0, UINT16_MAX, &port, err);
    if (result != 0)
        return err ? err_wrap(err, "port") : result;
    *out = (uint16_t)port;
    return 0;
}

static int parse_arguments(int argc, char **argv, struct monitor_options *options,
                           const char **port, struct err *err)
{
    static const struct option known[] = {
        {"host", required_argument, NULL, 'H'},  {"port", required_argument, NULL, 'p'},
        {"state", required_argument, NULL, 's'}, {"hold", no_argument, NULL, 'k'},
        {"help", no_argument, NULL, 'h'},        {NULL, 0, NULL, 0},
    };
    opterr = 0;
    optind = 1;
    int option = 0;
    while ((option = getopt_long(argc, argv, "h", known, NULL)) != -1) {
        switch (option) {
        case 'H':
            options->host = optarg;
            break;
        case 'p':
            *port = optarg;
            break;
        case 's':
            options->state_path = optarg;
            break;
        case 'k':
            options->hold = true;
            break;
        case 'h':
            options->help = true;
            break;
        default:
            return err_set(err, ERR_BAD_INPUT, "\"%s\" is not an option, or lacks its value",
                           argv[optind - 1]);
        }
    }
    if (optind < argc)
        return err_set(err, ERR_BAD_INPUT, "\"%s\" is one argument too many", argv[optind]);
    return 0;
}

int monitor_options_parse(int argc, char **argv, struct monitor_options *out, struct err *err)
{
    char state[PATH_MAX] = "";
    struct monitor_options options = {
        .host = setting("HOST", "API_HOST", "127.0.0.1"),
        .state_path = setting("BERTH_STATE", NULL, default_state(state)),
        .user = setting("BERTH_USER", NULL, "berth"),
        .egress_user = setting("BERTH_EGRESS_USER", NULL, OPTIONS_EGRESS_USER),
        .cgroup = setting("BERTH_CGROUP", NULL, NULL),
        .images_path = setting("BERTH_IMAGES", NULL, NULL),
    };
    const char *engines = setting("BERTH_ENGINES", "BERTH_ENGINE", "native");
    options.native = has_word(engines, "native");
    options.docker = has_word(engines, "docker");
    const char *port = setting("PORT", "API_PORT", "8000");
    int result = parse_arguments(argc, argv, &options, &port, err);
    if (result == 0)
        result = parse_port(port, &options.port, err);
    if (result == 0 && !options.state_path)
        result = err_set(err, ERR_BAD_INPUT, "--state is needed: HOME is not set");
    if (result != 0)
        return result;
    *out = options;
    if (options.state_path == state) {
        memcpy(out->state_default, state, sizeof(state));
        out->state_path = out->state_default;
    }
    return 0;
}
