/* Owns the questions that are asked of the daemon itself, and what is made of the answers. */
#include "docker/daemon.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/id.h"
#include "base/log.h"
#include "base/mem.h"
#include "wire/json.h"

#define ASK_NS (10 * CLOCK_NS_PER_S)
#define AGAIN_FIRST_NS (250 * CLOCK_NS_PER_MS)
#define AGAIN_MAX_NS (5 * CLOCK_NS_PER_S)
#define PING_NS (10 * CLOCK_NS_PER_S)
#define FACTS_NS (60 * CLOCK_NS_PER_S)

enum { VALUES_MAX = 100000 };

static void ask(void *context);

/* ---- reading ---- */

static void copy_text(const json_t *object, const char *field, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(object, field));
    (void)snprintf(out, size, "%s", text ? text : "");
}

/* "1.41" as 41; -1: anything else. */
static int minor_of(const json_t *object, const char *field)
{
    const char *text = json_string_value(json_object_get(object, field));
    if (!text || strncmp(text, "1.", 2) != 0)
        return -1;
    char *end = NULL;
    long minor = strtol(text + 2, &end, 10);
    return end != text + 2 && *end == '\0' && minor >= 0 && minor < 1000 ? (int)minor : -1;
}

/* Docker: "runc", "1.1.5". Podman: "OCI Runtime (runc)", "runc version 1.1.5\n" and more lines. */
static void read_components(const json_t *json, struct daemon_facts *facts)
{
    size_t index = 0;
    const json_t *component = NULL;
    json_array_foreach(json_object_get(json, "Components"), index, component)
    {
        const char *name = json_string_value(json_object_get(component, "Name"));
        const char *version = json_string_value(json_object_get(component, "Version"));
        if (!name || !version)
            continue;
        if (strcmp(name, "Podman Engine") == 0)
            facts->is_podman = true;
        if (strcmp(name, "OCI Runtime (runc)") == 0 && strncmp(version, "runc version ", 13) == 0)
            version += 13;
        else if (strcmp(name, "runc") != 0)
            continue;
        (void)snprintf(facts->runc_version, sizeof(facts->runc_version), "%.*s",
                       (int)strcspn(version, " \n"), version);
    }
}

int daemon_read_version(const struct buf *body, struct daemon_facts *facts, struct err *err)
{
    JSON_AUTO json_t *json = NULL;
    int result = json_parse_large(body->data, body->size, VALUES_MAX, &json, err);
    if (result != 0)
        return err ? err_wrap(err, "the Docker daemon's version") : result;
    int most = minor_of(json, "ApiVersion");
    int least = minor_of(json, "MinAPIVersion");
    if (most < DAEMON_API_LEAST)
        return err_public(err, ERR_UNAVAILABLE,
                          "the Docker daemon's API is too old: 1.%d at least is needed",
                          DAEMON_API_LEAST);
    int minor = most < DAEMON_API_MOST ? most : DAEMON_API_MOST;
    minor = minor < least ? least : minor;
    (void)snprintf(facts->api, sizeof(facts->api), "/v1.%d", minor);
    copy_text(json, "Version", facts->version, sizeof(facts->version));
    read_components(json, facts);
    return 0;
}

/* Whether sizes of writable layers may be known: overlay2 on XFS with project quotas, btrfs, zfs
 * (docs.docker.com, "docker run --storage-opt"). The first container tells. */
static bool may_have_quota(const json_t *json, const char *driver)
{
    size_t index = 0;
    const json_t *line = NULL;
    if (strcmp(driver, "btrfs") == 0 || strcmp(driver, "zfs") == 0)
        return true;
    json_array_foreach(json_object_get(json, "DriverStatus"), index, line)
    {
        const char *name = json_string_value(json_array_get(line, 0));
        const char *value = json_string_value(json_array_get(line, 1));
        if (name && value && strcmp(name, "Backing Filesystem") == 0 && strcmp(value, "xfs") == 0)
            return true;
    }
    return false;
}

/* A name, the path of a program, or a type of shim ("io.containerd.runsc.v1"). */
static bool names_gvisor(const char *text)
{
    const char *last = text ? strrchr(text, '/') : NULL;
    last = last ? last + 1 : text;
    return last && (strncmp(last, "runsc", 5) == 0 || strstr(last, ".runsc."));
}

bool daemon_is_gvisor(const struct daemon_facts *facts, const char *runtime)
{
    for (size_t i = 0; i < facts->runtime_count; i++) {
        if (strcmp(facts->runtimes[i].name, runtime) == 0)
            return facts->gvisor[i];
    }
    return names_gvisor(runtime);
}

static void add_runtime(struct daemon_facts *facts, const char *name, const json_t *runtime)
{
    const char *path = json_string_value(json_object_get(runtime, "path"));
    if (!id_is_name(name, ENGINE_NAME_MAX - 1) || facts->runtime_count == ENGINE_RUNTIMES_MAX)
        return; /* "io.containerd.runc.v2" and its like: names of shims */
    const char *type = json_string_value(json_object_get(runtime, "runtimeType"));
    facts->gvisor[facts->runtime_count] =
        names_gvisor(name) || names_gvisor(path) || names_gvisor(type);
    struct engine_runtime *added = &facts->runtimes[facts->runtime_count++];
    memset(added, 0, sizeof(*added));
    (void)snprintf(added->name, sizeof(added->name), "%s", name);
    if (strcmp(name, "runc") == 0 || (path && strcmp(path, "runc") == 0))
        (void)snprintf(added->version, sizeof(added->version), "%s", facts->runc_version);
}

static void read_runtimes(const json_t *json, struct daemon_facts *facts)
{
    const char *name = NULL;
    json_t *runtimes = json_object_get(json, "Runtimes");
    const char *first = json_string_value(json_object_get(json, "DefaultRuntime"));
    json_t *runtime = NULL;
    first = first && *first != '\0' ? first : "runc";
    facts->runtime_count = 0;
    add_runtime(facts, first, json_object_get(runtimes, first));
    if (facts->is_podman)
        return; /* it takes any name for a container, and starts that one nevertheless */
    json_object_foreach(runtimes, name, runtime)
    {
        if (strcmp(name, first) != 0)
            add_runtime(facts, name, runtime);
    }
}

int daemon_read_info(const struct buf *body, struct daemon_facts *facts, struct err *err)
{
    JSON_AUTO json_t *json = NULL;
    int result = json_parse_large(body->data, body->size, VALUES_MAX, &json, err);
    if (result != 0)
        return err ? err_wrap(err, "the Docker daemon's info") : result;
    const char *cgroups = json_string_value(json_object_get(json, "CgroupVersion"));
    const char *driver = json_string_value(json_object_get(json, "CgroupDriver"));
    copy_text(json, "Driver", facts->driver, sizeof(facts->driver));
    bool none = driver && strcmp(driver, "none") == 0;
    (void)snprintf(facts->cgroup_mode, sizeof(facts->cgroup_mode), "%s",
                   none                                   ? "none"
                   : cgroups && strcmp(cgroups, "2") == 0 ? "v2"
                                                          : "v1");
    facts->memory_bytes = (uint64_t)json_integer_value(json_object_get(json, "MemTotal"));
    facts->cpus = (uint32_t)json_integer_value(json_object_get(json, "NCPU"));
    facts->limits_memory = !none && json_is_true(json_object_get(json, "MemoryLimit"));
    facts->limits_cpu = !none && json_is_true(json_object_get(json, "CpuCfsQuota"));
    facts->limits_pids = !none && json_is_true(json_object_get(json, "PidsLimit"));
    facts->quota = may_have_quota(json, facts->driver);
    const char *os = json_string_value(json_object_get(json, "OSType"));
    if (os && strcmp(os, "linux") != 0)
        return err_public(err, ERR_UNAVAILABLE,
                          "the Docker daemon makes %s containers: linux ones "
                          "are needed",
                          os);
    read_runtimes(json, facts);
    return 0;
}

/* ---- asking ---- */

static void plan(struct daemon *daemon, int64_t after_ns)
{
    loop_set_timer(daemon->loop, &daemon->timer, clock_now_ns() + after_ns, ask, daemon);
}

static void note_down(struct daemon *daemon, const struct err *error)
{
    bool was_up = daemon->is_up;
    bool news = was_up || strcmp(daemon->why.message, error->message) != 0;
    daemon->is_up = false;
    daemon->why = *error;
    if (news)
        log_warn("%s", error->message);
    daemon->pause_ns = daemon->pause_ns == 0 || was_up ? AGAIN_FIRST_NS : daemon->pause_ns * 2;
    if (daemon->pause_ns > AGAIN_MAX_NS)
        daemon->pause_ns = AGAIN_MAX_NS;
    plan(daemon, daemon->pause_ns);
    if (was_up)
        web_fail(daemon->web, error);
    bool news_to_others = was_up || !daemon->was_tried;
    daemon->was_tried = true;
    if (news_to_others)
        daemon->on_down(daemon->context);
}

/* Slow is not gone: what is under way at a daemon that takes its time goes on until it has not
 * answered twice. */
static void note_unanswered(struct daemon *daemon, const struct err *error)
{
    if (!daemon->is_up || daemon->was_slow || error->kind != ERR_TIMEOUT) {
        daemon->was_slow = false;
        note_down(daemon, error);
        return;
    }
    log_warn("%s", error->message);
    daemon->was_slow = true;
    plan(daemon, 0);
}

/* What it is and can do was not said: of one that is up, a ping tells whether it still is. */
static void note_no_facts(struct daemon *daemon, const struct err *error)
{
    if (!daemon->is_up) {
        note_down(daemon, error);
        return;
    }
    log_warn("%s", error->message);
    daemon->facts_at_ns = clock_now_ns();
    plan(daemon, 0);
}

/* Of a call of ours: whether its answer is one. */
static int check(struct daemon *daemon, long status, const struct buf *body, const char *what,
                 const struct err *error, struct err *err)
{
    daemon->call = NULL;
    if (error)
        return err_copy(err, error);
    return status == 200 ? 0 : web_refused(status, body, what, err);
}

static void on_info(void *context, long status, struct buf *body, const struct err *error)
{
    struct daemon *daemon = context;
    struct err err = ERR_INIT;
    int result = check(daemon, status, body, "info", error, &err);
    if (result == 0)
        result = daemon_read_info(body, &daemon->next, &err);
    if (result != 0) {
        note_no_facts(daemon, &err);
        return;
    }
    bool was_up = daemon->is_up;
    daemon->facts = daemon->next;
    daemon->knew = true;
    daemon->is_up = daemon->was_tried = true;
    (void)err_public(&daemon->why, ERR_UNAVAILABLE,
                     "the Docker daemon's containers are not listed yet"); /* for as long as that */
    daemon->was_slow = false;
    daemon->pause_ns = 0;
    daemon->facts_at_ns = clock_now_ns();
    plan(daemon, PING_NS);
    if (was_up)
        return;
    log_info("the Docker daemon at %s answers: version %s, API %s, %s", daemon->address.shown,
             daemon->facts.version, daemon->facts.api + 2, daemon->facts.driver);
    daemon->on_up(daemon->context);
}

static int send(struct daemon *daemon, const char *path, web_done_fn done, struct err *err)
{
    const struct web_request request = {
        .method = "GET", .path = path, .timeout_ns = ASK_NS, .done = done, .context = daemon};
    return web_start(daemon->web, &request, &daemon->call, err);
}

static void on_version(void *context, long status, struct buf *body, const struct err *error)
{
    struct daemon *daemon = context;
    struct err err = ERR_INIT;
    char path[32];
    int result = check(daemon, status, body, "version", error, &err);
    memset(&daemon->next, 0, sizeof(daemon->next));
    if (result == 0)
        result = daemon_read_version(body, &daemon->next, &err);
    (void)snprintf(path, sizeof(path), "%s/info", daemon->next.api);
    if (result == 0)
        result = send(daemon, path, on_info, &err);
    if (result != 0)
        note_no_facts(daemon, &err);
}

static void on_ping(void *context, long status, struct buf *body, const struct err *error)
{
    struct daemon *daemon = context;
    struct err err = ERR_INIT;
    if (check(daemon, status, body, "ping", error, &err) != 0) {
        note_unanswered(daemon, &err);
        return;
    }
    daemon->was_slow = false;
    plan(daemon, PING_NS);
}

static void ask(void *context)
{
    struct daemon *daemon = context;
    struct err err = ERR_INIT;
    int result = 0;
    if (daemon->call)
        return;
    if (!daemon->is_up) {
        web_free(daemon->web);
        daemon->web = NULL;
        if (!daemon->knew) /* another socket may be there by now */
            result = address_find(&daemon->address, &err);
        if (result == 0)
            result = web_new(daemon->loop, &daemon->address, &daemon->web, &err);
    }
    bool whole = !daemon->is_up || clock_now_ns() - daemon->facts_at_ns >= FACTS_NS;
    if (result == 0)
        result = whole ? send(daemon, "/version", on_version, &err)
                       : send(daemon, "/_ping", on_ping, &err);
    if (result != 0)
        note_down(daemon, &err);
}

void daemon_start(struct daemon *daemon)
{
    (void)err_set(&daemon->why, ERR_UNAVAILABLE, "the Docker daemon has not been asked yet");
    plan(daemon, 0);
}

void daemon_stop(struct daemon *daemon)
{
    loop_stop_timer(&daemon->timer);
    web_free(daemon->web);
    daemon->web = NULL;
    daemon->call = NULL;
    daemon->is_up = false;
}

void daemon_doubt(struct daemon *daemon)
{
    if (daemon->is_up && !daemon->call)
        plan(daemon, 0);
}

int daemon_away(const struct daemon *daemon, struct err *err)
{
    const char *said = daemon->why.public_message;
    int result = err_public(err, ERR_UNAVAILABLE, "%s; try again",
                            said[0] != '\0' ? said : "the Docker daemon does not answer");
    if (err) {
        err->retry_after_s = 2;
        (void)snprintf(err->message, sizeof(err->message), "%s", daemon->why.message);
    }
    return result;
}

/* A request whose path lacks the API's version. */
static int start(struct daemon *daemon, struct web_request *request, struct web_call **out,
                 struct err *err)
{
    char whole[2048];
    if (!daemon->is_up)
        return daemon_away(daemon, err);
    int size = snprintf(whole, sizeof(whole), "%s%s", daemon->facts.api, request->path);
    if (size < 0 || (size_t)size >= sizeof(whole))
        return err_set(err, ERR_INTERNAL, "a path of %d bytes", size);
    request->path = whole;
    request->type = strcmp(request->method, "PUT") == 0 ? "application/x-tar" : NULL;
    return web_start(daemon->web, request, out, err);
}

int daemon_call(struct daemon *daemon, const char *method, const char *path, struct buf *body,
                int64_t timeout_ns, web_done_fn done, void *context, struct web_call **out,
                struct err *err)
{
    struct web_request request = {.method = method,
                                  .path = path,
                                  .body = body,
                                  .timeout_ns = timeout_ns,
                                  .done = done,
                                  .context = context};
    return start(daemon, &request, out, err);
}

int daemon_upload(struct daemon *daemon, const char *path, int fd, uint64_t size_bytes,
                  int64_t timeout_ns, web_done_fn done, void *context, struct web_call **out,
                  struct err *err)
{
    struct web_request request = {.method = "PUT",
                                  .path = path,
                                  .body_fd = fd,
                                  .body_size = size_bytes,
                                  .timeout_ns = timeout_ns,
                                  .done = done,
                                  .context = context};
    return start(daemon, &request, out, err);
}
