/* Owns the containers of the pretended daemon, and a thread for each connection. One lock over all:
 * it is a test's. */
#include "fake_docker.h"

#include <errno.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "wire/carrier.h"

enum { CONTAINERS_MAX = 64, ASKED_MAX = 4096, HEAD_MAX = 8192, STREAMS_MAX = 8, LINE_SIZE = 256 };

struct fake_container {
    char name[160];
    char state[16];
    char *body; /* of its creation */
    json_t *labels;
    bool oom;
    bool filled; /* by the archive API */
    int exit_code;
    int ended_fd; /* an eventfd: readable once it has ended or the daemon is gone */
};

struct fake_docker {
    pthread_mutex_t lock; /* of all below */
    pthread_cond_t changed;
    struct sockaddr_un address;
    int listen_fd;
    pthread_t thread;
    bool paused;
    unsigned threads; /* of connections */
    struct fake_container containers[CONTAINERS_MAX];
    size_t count;
    int streams[STREAMS_MAX]; /* of events */
    int connections[CONTAINERS_MAX];
    char asked[ASKED_MAX][LINE_SIZE];
    size_t asked_count;
    char refused[LINE_SIZE];
    unsigned refused_count;
    int refused_status;
    char refused_message[LINE_SIZE];
    char delayed[LINE_SIZE];
    unsigned delay_ms;
    bool lags;
    char image[80];
    char prepared[80];
    json_t *prepared_labels;
    unsigned commits;
    unsigned api_least; /* "1.40" is 40 */
    unsigned api_most;
    bool is_podman;
    char *shown; /* the last fake_docker_made_of() */
};

struct connection {
    struct fake_docker *fake;
    int fd;
    char line[LINE_SIZE]; /* "GET /v1.41/info" */
    char *body;
};

static struct fake_container *find(struct fake_docker *fake, const char *name)
{
    for (size_t i = 0; i < fake->count; i++) {
        if (strcmp(fake->containers[i].name, name) == 0)
            return &fake->containers[i];
    }
    return NULL;
}

static void forget(struct fake_container *container)
{
    json_decref(container->labels);
    free(container->body);
    fd_close(&container->ended_fd);
}

static void remove_container(struct fake_docker *fake, struct fake_container *container)
{
    uint64_t one = 1;
    (void)!write(container->ended_fd, &one, sizeof(one));
    forget(container);
    *container = fake->containers[--fake->count];
}

/* To all who follow. */
static void tell(struct fake_docker *fake, const struct fake_container *container,
                 const char *action)
{
    char code[16];
    (void)snprintf(code, sizeof(code), "%d", container->exit_code);
    json_t *attributes = json_deep_copy(container->labels);
    (void)json_object_set_new(attributes, "exitCode", json_string(code));
    json_t *event = json_pack("{ss ss s{so}}", "Type", "container", "Action", action, "Actor",
                              "Attributes", attributes);
    char *text = json_dumps(event, JSON_COMPACT);
    for (size_t i = 0; i < STREAMS_MAX; i++) {
        if (fake->streams[i] >= 0) {
            (void)fd_write_all(fake->streams[i], text, strlen(text), NULL);
            (void)fd_write_all(fake->streams[i], "\n", 1, NULL);
        }
    }
    free(text);
    json_decref(event);
}

static void end_container(struct fake_docker *fake, struct fake_container *container, int exit_code)
{
    uint64_t one = 1;
    container->exit_code = exit_code;
    (void)snprintf(container->state, sizeof(container->state), "exited");
    (void)!write(container->ended_fd, &one, sizeof(one));
    tell(fake, container, "die");
}

static struct fake_container *add(struct fake_docker *fake, const char *name, const char *state)
{
    struct fake_container *container = &fake->containers[fake->count++];
    memset(container, 0, sizeof(*container));
    (void)snprintf(container->name, sizeof(container->name), "%s", name);
    (void)snprintf(container->state, sizeof(container->state), "%s", state);
    container->ended_fd = eventfd(0, EFD_CLOEXEC);
    return container;
}

/* ---- what init would do ---- */

static void on_opened(void *context, int fd)
{
    (void)context;
    (void)!write(fd, "hi", 2); /* stays open until the carrier goes */
}

/* In Docker's frame. */
static int put_out(int fd, const uint8_t *data, size_t size)
{
    uint8_t head[8] = {1};
    head[4] = (uint8_t)(size >> 24);
    head[5] = (uint8_t)(size >> 16);
    head[6] = (uint8_t)(size >> 8);
    head[7] = (uint8_t)size;
    if (fd_write_all(fd, head, sizeof(head), NULL) != 0)
        return -1;
    return fd_write_all(fd, data, size, NULL);
}

static void play_init(int fd, int ended_fd, const uint8_t *secret)
{
    const struct carrier_events events = {.opened = on_opened};
    struct carrier *carrier = NULL;
    uint8_t bytes[4096];
    if (carrier_new_inner(secret, &events, &carrier, NULL) != 0)
        return;
    for (;;) {
        struct pollfd waits[] = {{.fd = fd, .events = POLLIN},
                                 {.fd = carrier_fd(carrier), .events = POLLIN},
                                 {.fd = ended_fd, .events = POLLIN}};
        size_t size = 0;
        const uint8_t *data = carrier_pending(carrier, &size);
        if (size > 0) {
            if (put_out(fd, data, size) != 0)
                break;
            carrier_sent(carrier, size);
            continue;
        }
        if (poll(waits, ARRAY_SIZE(waits), -1) < 0 || waits[2].revents != 0)
            break;
        ssize_t got = waits[0].revents != 0 ? read(fd, bytes, sizeof(bytes)) : 1;
        if (got <= 0)
            break;
        if (waits[0].revents != 0 && carrier_take(carrier, bytes, (size_t)got, NULL) != 0)
            break;
        carrier_step(carrier);
    }
    carrier_free(carrier);
}

static bool read_secret(const struct fake_container *container, uint8_t *secret)
{
    const char *hex = json_string_value(json_object_get(container->labels, "berth.secret"));
    unsigned byte = 0;
    if (!hex || strlen(hex) != (size_t)2 * CARRIER_SECRET_SIZE)
        return false;
    for (size_t i = 0; i < CARRIER_SECRET_SIZE; i++) {
        if (sscanf(hex + 2 * i, "%2x", &byte) != 1) // NOLINT(cert-err34-c): two digits
            return false;
        secret[i] = (uint8_t)byte;
    }
    return true;
}

/* ---- requests ---- */

static int reply(const struct connection *connection, int status, const char *body)
{
    char head[160];
    (void)snprintf(head, sizeof(head),
                   "HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n",
                   status, status == 204 ? 0 : strlen(body));
    if (fd_write_all(connection->fd, head, strlen(head), NULL) != 0)
        return -1;
    return status == 204 ? 0 : fd_write_all(connection->fd, body, strlen(body), NULL);
}

static int reply_message(const struct connection *connection, int status, const char *message)
{
    char body[512];
    (void)snprintf(body, sizeof(body), "{\"message\":\"%s\"}", message);
    return reply(connection, status, body);
}

/* The name in "/containers/NAME/...". */
static struct fake_container *named(const struct connection *connection)
{
    char name[160];
    const char *at = strstr(connection->line, "/containers/");
    at = at ? at + strlen("/containers/") : "";
    (void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(at, "/?"), at);
    return find(connection->fake, name);
}

static int on_create(const struct connection *connection)
{
    struct fake_docker *fake = connection->fake;
    const char *name = strstr(connection->line, "name=");
    const char *body = connection->body ? connection->body : "";
    json_t *json = json_loads(body, 0, NULL);
    if (!name || !json || find(fake, name + 5)) {
        json_decref(json);
        return reply_message(connection, 409, "Conflict. The container name is already in use");
    }
    struct fake_container *container = add(fake, name + 5, "created");
    container->body = strdup(body);
    container->labels = json_incref(json_object_get(json, "Labels"));
    json_decref(json);
    return reply(connection, 201, "{\"Id\":\"0\",\"Warnings\":[]}");
}

static int on_list(const struct connection *connection)
{
    struct fake_docker *fake = connection->fake;
    json_t *list = json_array();
    for (size_t i = 0; i < fake->count; i++) {
        const struct fake_container *container = &fake->containers[i];
        (void)json_array_append_new(list, json_pack("{ss ss sO}", "Id", container->name, "State",
                                                    fake->lags ? "created" : container->state,
                                                    "Labels", container->labels));
    }
    char *text = json_dumps(list, JSON_COMPACT);
    int result = reply(connection, 200, text);
    free(text);
    json_decref(list);
    return result;
}

static int on_inspect(const struct connection *connection, const struct fake_container *container)
{
    char body[160];
    (void)snprintf(body, sizeof(body),
                   "{\"State\":{\"Running\":%s,\"OOMKilled\":%s,\"ExitCode\":%d}}",
                   strcmp(container->state, "running") == 0 ? "true" : "false",
                   container->oom ? "true" : "false", container->exit_code);
    return reply(connection, 200, body);
}

/* Holds the lock but while it plays init. */
static int on_attach(const struct connection *connection, struct fake_container *container)
{
    static const char head[] =
        "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    struct fake_docker *fake = connection->fake;
    uint8_t secret[CARRIER_SECRET_SIZE];
    char name[160];
    (void)snprintf(name, sizeof(name), "%s", container->name);
    if (!read_secret(container, secret) ||
        fd_write_all(connection->fd, head, sizeof(head) - 1, NULL) != 0)
        return -1;
    while (container && !fake->paused && strcmp(container->state, "running") != 0) {
        (void)pthread_cond_wait(&fake->changed, &fake->lock);
        container = find(fake, name);
    }
    if (!container || fake->paused)
        return -1;
    FD_AUTO int ended_fd = dup(container->ended_fd);
    (void)pthread_mutex_unlock(&fake->lock);
    play_init(connection->fd, ended_fd, secret);
    (void)pthread_mutex_lock(&fake->lock);
    return -1;
}

static int on_container(const struct connection *connection)
{
    struct fake_docker *fake = connection->fake;
    struct fake_container *container = named(connection);
    const char *line = connection->line;
    uint64_t number = 0;
    if (!container)
        return reply_message(connection, 404, "No such container");
    if (strstr(line, "/attach") && fake->is_podman && !container->filled)
        return reply_message(connection, 409, "there is no such program in it");
    if (strstr(line, "/attach"))
        return on_attach(connection, container);
    if (strstr(line, "/json"))
        return on_inspect(connection, container);
    if (strstr(line, "/archive")) {
        container->filled = true;
        return reply(connection, 200, "");
    }
    if (strstr(line, "/update"))
        return fake->is_podman ? reply(connection, 404, "Not Found") : reply(connection, 200, "{}");
    if (strstr(line, "/start")) {
        if (strcmp(container->state, "exited") == 0)
            (void)!read(container->ended_fd, &number, sizeof(number));
        (void)snprintf(container->state, sizeof(container->state), "running");
        (void)pthread_cond_broadcast(&fake->changed);
        return reply(connection, 204, "");
    }
    if (strstr(line, "/stop") && strcmp(container->state, "running") != 0)
        return reply(connection, 304, "");
    if (strstr(line, "/stop") || strstr(line, "/kill")) {
        end_container(fake, container, 137);
        return reply(connection, 204, "");
    }
    if (strncmp(line, "DELETE ", 7) != 0)
        return reply_message(connection, 404, "page not found");
    if (strcmp(container->state, "running") == 0)
        end_container(fake, container, 137);
    tell(fake, container, "destroy");
    remove_container(fake, container);
    (void)pthread_cond_broadcast(&fake->changed);
    return reply(connection, 204, "");
}

/* Stays open; lines come when something happens. */
static int on_events(const struct connection *connection)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    struct fake_docker *fake = connection->fake;
    struct pollfd wait = {.fd = connection->fd, .events = POLLIN};
    size_t i = 0;
    while (i < STREAMS_MAX && fake->streams[i] >= 0)
        i++;
    if (i == STREAMS_MAX || fd_write_all(connection->fd, head, sizeof(head) - 1, NULL) != 0)
        return -1;
    fake->streams[i] = connection->fd;
    (void)pthread_mutex_unlock(&fake->lock);
    (void)poll(&wait, 1, -1);
    (void)pthread_mutex_lock(&fake->lock);
    fake->streams[i] = -1;
    return -1;
}

/* Called with the lock held. */
static int on_commit(const struct connection *connection)
{
    struct fake_docker *fake = connection->fake;
    char name[160];
    char body[128];
    const char *at = strstr(connection->line, "container=");
    at = at ? at + strlen("container=") : "";
    (void)snprintf(name, sizeof(name), "%.*s", (int)strcspn(at, "&"), at);
    const struct fake_container *container = find(fake, name);
    if (!container)
        return reply_message(connection, 404, "No such container");
    json_decref(fake->prepared_labels);
    fake->prepared_labels = json_deep_copy(container->labels);
    (void)snprintf(fake->prepared, sizeof(fake->prepared), "sha256:c0de%u", ++fake->commits);
    (void)snprintf(body, sizeof(body), "{\"Id\":\"%s\"}", fake->prepared);
    return reply(connection, 201, body);
}

static int on_image(const struct connection *connection)
{
    struct fake_docker *fake = connection->fake;
    if (strstr(connection->line, "/images/create") || strstr(connection->line, "/images/prune") ||
        fake->image[0] == '\0') /* what has volumes is not prepared */
        return reply(connection, 200,
                     "{\"status\":\"Pulling\",\"Id\":\"sha256:0123456789abcdef01\","
                     "\"Config\":{\"Volumes\":{\"/data\":{}}}}\n");
    bool prepared = strstr(connection->line, "/berth-prepared:") != NULL;
    if (prepared && fake->prepared[0] == '\0')
        return reply_message(connection, 404, "No such image");
    json_t *json = json_pack("{ss s{sO?}}", "Id", prepared ? fake->prepared : fake->image, "Config",
                             "Labels", prepared ? fake->prepared_labels : NULL);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    int result = text ? reply(connection, 200, text) : -1;
    free(text);
    json_decref(json);
    return result;
}

static const char version_form[] =
    "{\"Version\":\"99.1\",\"ApiVersion\":\"1.%u\",\"MinAPIVersion\":\"1.%u\",\"Components\":"
    "[{\"Name\":\"%s\",\"Version\":\"1.2.8\"}]}";
static const char info_text[] =
    "{\"Driver\":\"overlay2\",\"DriverStatus\":[[\"Backing Filesystem\",\"extfs\"]],"
    "\"MemoryLimit\":true,\"CpuCfsQuota\":true,\"PidsLimit\":true,\"CgroupVersion\":\"2\","
    "\"CgroupDriver\":\"systemd\",\"NCPU\":4,\"MemTotal\":8589934592,\"OSType\":\"linux\","
    "\"DefaultRuntime\":\"runc\",\"Runtimes\":{\"io.containerd.runc.v2\":{\"path\":\"runc\"},"
    "\"runsc\":{\"path\":\"/usr/bin/runsc\"},\"runc\":{\"path\":\"runc\"}}}";

static int reply_version(const struct connection *connection)
{
    const struct fake_docker *fake = connection->fake;
    char text[sizeof(version_form) + 32];
    (void)snprintf(text, sizeof(text), version_form, fake->api_most, fake->api_least,
                   fake->is_podman ? "Podman Engine" : "runc");
    return reply(connection, 200, text);
}

/* As Docker does it: a path of a version that it has not is refused. */
static bool has_version(const struct fake_docker *fake, const char *line)
{
    const char *path = strchr(line, ' ');
    if (!path || strncmp(path, " /v1.", 5) != 0)
        return false;
    unsigned long minor = strtoul(path + 5, NULL, 10);
    return minor >= fake->api_least && minor <= fake->api_most;
}

/* Returns 0 when the connection stays. Called with the lock held. */
static int answer(const struct connection *connection)
{
    struct fake_docker *fake = connection->fake;
    const char *line = connection->line;
    if (fake->asked_count < ASKED_MAX)
        (void)snprintf(fake->asked[fake->asked_count++], LINE_SIZE, "%s", line);
    if (fake->delayed[0] != '\0' && strstr(line, fake->delayed)) {
        unsigned delay_ms = fake->delay_ms;
        (void)pthread_mutex_unlock(&fake->lock);
        clock_sleep_ns(delay_ms * CLOCK_NS_PER_MS);
        (void)pthread_mutex_lock(&fake->lock);
    }
    if (fake->paused)
        return -1;
    if (fake->refused_count > 0 && strstr(line, fake->refused)) {
        fake->refused_count--;
        return reply_message(connection, fake->refused_status, fake->refused_message);
    }
    if (strcmp(line, "GET /version") == 0)
        return reply_version(connection);
    if (strcmp(line, "GET /_ping") == 0)
        return reply(connection, 200, "OK");
    if (!has_version(fake, line))
        return reply_message(connection, 400, "client version is too old or too new");
    if (strstr(line, "/info"))
        return reply(connection, 200, info_text);
    if (strstr(line, "/events?"))
        return on_events(connection);
    if (strstr(line, "/images/"))
        return on_image(connection);
    if (strstr(line, "/commit?"))
        return on_commit(connection);
    if (strstr(line, "/containers/create?"))
        return on_create(connection);
    if (strstr(line, "/containers/json?"))
        return on_list(connection);
    return on_container(connection);
}

/* Reads one request; false at the end. */
static bool read_request(struct connection *connection)
{
    char head[HEAD_MAX];
    size_t used = 0;
    while (used < sizeof(head) - 1) {
        if (read(connection->fd, head + used, 1) != 1)
            return false;
        head[++used] = '\0';
        if (used >= 4 && memcmp(head + used - 4, "\r\n\r\n", 4) == 0)
            break;
    }
    const char *length = strstr(head, "Content-Length: ");
    size_t size = length ? strtoul(length + 16, NULL, 10) : 0;
    size_t method = strcspn(head, " ");
    (void)snprintf(connection->line, sizeof(connection->line), "%.*s",
                   (int)(method + 1 + strcspn(head + method + 1, " ")), head);
    free(connection->body);
    connection->body = calloc(1, size + 1);
    for (size_t at = 0; connection->body && at < size;) {
        ssize_t got = read(connection->fd, connection->body + at, size - at);
        if (got <= 0)
            return false;
        at += (size_t)got;
    }
    return connection->body != NULL;
}

static void *serve_connection(void *context)
{
    struct connection *connection = context;
    struct fake_docker *fake = connection->fake;
    bool open = true;
    while (open && read_request(connection)) {
        (void)pthread_mutex_lock(&fake->lock);
        open = answer(connection) == 0;
        (void)pthread_mutex_unlock(&fake->lock);
    }
    (void)pthread_mutex_lock(&fake->lock);
    for (size_t i = 0; i < CONTAINERS_MAX; i++) {
        if (fake->connections[i] == connection->fd)
            fake->connections[i] = -1;
    }
    fd_close(&connection->fd);
    fake->threads--;
    (void)pthread_cond_broadcast(&fake->changed);
    (void)pthread_mutex_unlock(&fake->lock);
    free(connection->body);
    free(connection);
    return NULL;
}

static void begin_connection(struct fake_docker *fake, int fd)
{
    pthread_t thread;
    struct connection *connection = calloc(1, sizeof(*connection));
    size_t i = 0;
    while (i < CONTAINERS_MAX && fake->connections[i] >= 0)
        i++;
    if (!connection || i == CONTAINERS_MAX)
        abort();
    *connection = (struct connection){.fake = fake, .fd = fd};
    fake->connections[i] = fd;
    fake->threads++;
    if (pthread_create(&thread, NULL, serve_connection, connection) != 0)
        abort();
    (void)pthread_detach(thread);
}

static void *accept_all(void *context)
{
    struct fake_docker *fake = context;
    for (;;) {
        int fd = accept4(fake->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0)
            return NULL; /* fake_docker_pause() */
        (void)pthread_mutex_lock(&fake->lock);
        begin_connection(fake, fd);
        (void)pthread_mutex_unlock(&fake->lock);
    }
}

static int listen_now(struct fake_docker *fake)
{
    (void)unlink(fake->address.sun_path);
    fake->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fake->listen_fd < 0 ||
        bind(fake->listen_fd, (struct sockaddr *)&fake->address, sizeof(fake->address)) != 0 ||
        listen(fake->listen_fd, 64) != 0)
        return -1;
    return pthread_create(&fake->thread, NULL, accept_all, fake) == 0 ? 0 : -1;
}

/* ---- what a test does ---- */

struct fake_docker *fake_docker_start(const char *path)
{
    struct fake_docker *fake = calloc(1, sizeof(*fake));
    if (!fake)
        return NULL;
    (void)pthread_mutex_init(&fake->lock, NULL);
    (void)pthread_cond_init(&fake->changed, NULL);
    fake->address.sun_family = AF_UNIX;
    (void)snprintf(fake->address.sun_path, sizeof(fake->address.sun_path), "%s", path);
    fake->api_least = 12;
    fake->api_most = 41;
    for (size_t i = 0; i < STREAMS_MAX; i++)
        fake->streams[i] = -1;
    for (size_t i = 0; i < CONTAINERS_MAX; i++)
        fake->connections[i] = -1;
    if (listen_now(fake) == 0)
        return fake;
    free(fake);
    return NULL;
}

void fake_docker_pause(struct fake_docker *fake)
{
    (void)shutdown(fake->listen_fd, SHUT_RDWR);
    (void)pthread_join(fake->thread, NULL);
    (void)pthread_mutex_lock(&fake->lock);
    fd_close(&fake->listen_fd);
    (void)unlink(fake->address.sun_path);
    fake->paused = true;
    (void)pthread_cond_broadcast(&fake->changed);
    for (size_t i = 0; i < CONTAINERS_MAX; i++) {
        if (fake->connections[i] >= 0)
            (void)shutdown(fake->connections[i], SHUT_RDWR);
    }
    while (fake->threads > 0)
        (void)pthread_cond_wait(&fake->changed, &fake->lock);
    (void)pthread_mutex_unlock(&fake->lock);
}

void fake_docker_resume(struct fake_docker *fake, bool live_restore)
{
    (void)pthread_mutex_lock(&fake->lock);
    for (size_t i = 0; i < fake->count && !live_restore; i++) {
        if (strcmp(fake->containers[i].state, "running") == 0)
            (void)snprintf(fake->containers[i].state, sizeof(fake->containers[i].state), "exited");
    }
    fake->paused = false;
    (void)pthread_mutex_unlock(&fake->lock);
    if (listen_now(fake) != 0)
        abort();
}

void fake_docker_stop(struct fake_docker *fake)
{
    if (!fake)
        return;
    if (!fake->paused)
        fake_docker_pause(fake);
    for (size_t i = 0; i < fake->count; i++)
        forget(&fake->containers[i]);
    free(fake->shown);
    json_decref(fake->prepared_labels);
    (void)pthread_cond_destroy(&fake->changed);
    (void)pthread_mutex_destroy(&fake->lock);
    free(fake);
}

void fake_docker_refuse(struct fake_docker *fake, const char *line, unsigned count, int status,
                        const char *message)
{
    (void)pthread_mutex_lock(&fake->lock);
    (void)snprintf(fake->refused, sizeof(fake->refused), "%s", line);
    (void)snprintf(fake->refused_message, sizeof(fake->refused_message), "%s", message);
    fake->refused_count = count;
    fake->refused_status = status;
    (void)pthread_mutex_unlock(&fake->lock);
}

void fake_docker_delay(struct fake_docker *fake, const char *line, unsigned delay_ms)
{
    (void)pthread_mutex_lock(&fake->lock);
    (void)snprintf(fake->delayed, sizeof(fake->delayed), "%s", line);
    fake->delay_ms = delay_ms;
    (void)pthread_mutex_unlock(&fake->lock);
}

void fake_docker_add(struct fake_docker *fake, const char *name, const char *state,
                     const char *labels)
{
    (void)pthread_mutex_lock(&fake->lock);
    struct fake_container *container = add(fake, name, state);
    container->labels = json_loads(labels, 0, NULL);
    (void)pthread_mutex_unlock(&fake->lock);
}

void fake_docker_kill(struct fake_docker *fake, const char *name, int exit_code, bool oom)
{
    (void)pthread_mutex_lock(&fake->lock);
    struct fake_container *container = find(fake, name);
    if (!container)
        abort();
    container->oom = container->oom || oom;
    if (oom)
        tell(fake, container, "oom");
    end_container(fake, container, exit_code);
    (void)pthread_mutex_unlock(&fake->lock);
}

void fake_docker_speak(struct fake_docker *fake, unsigned least, unsigned most)
{
    (void)pthread_mutex_lock(&fake->lock);
    fake->api_least = least;
    fake->api_most = most;
    (void)pthread_mutex_unlock(&fake->lock);
}

void fake_docker_oom(struct fake_docker *fake, const char *name)
{
    (void)pthread_mutex_lock(&fake->lock);
    struct fake_container *container = find(fake, name);
    if (!container)
        abort();
    container->oom = true;
    tell(fake, container, "oom");
    (void)pthread_mutex_unlock(&fake->lock);
}

void fake_docker_start_one(struct fake_docker *fake, const char *name)
{
    (void)pthread_mutex_lock(&fake->lock);
    struct fake_container *container = find(fake, name);
    if (!container)
        abort();
    (void)snprintf(container->state, sizeof(container->state), "running");
    (void)pthread_mutex_unlock(&fake->lock);
}

void fake_docker_be_podman(struct fake_docker *fake)
{
    (void)pthread_mutex_lock(&fake->lock);
    fake->is_podman = true;
    (void)pthread_mutex_unlock(&fake->lock);
}

void fake_docker_cut_events(struct fake_docker *fake)
{
    (void)pthread_mutex_lock(&fake->lock);
    for (size_t i = 0; i < STREAMS_MAX; i++) {
        if (fake->streams[i] >= 0)
            (void)shutdown(fake->streams[i], SHUT_RDWR);
    }
    (void)pthread_mutex_unlock(&fake->lock);
}

void fake_docker_lag(struct fake_docker *fake)
{
    (void)pthread_mutex_lock(&fake->lock);
    fake->lags = true;
    (void)pthread_mutex_unlock(&fake->lock);
}

void fake_docker_set_image(struct fake_docker *fake, const char *id)
{
    (void)pthread_mutex_lock(&fake->lock);
    (void)snprintf(fake->image, sizeof(fake->image), "%s", id);
    (void)pthread_mutex_unlock(&fake->lock);
}

const char *fake_docker_prepared(struct fake_docker *fake)
{
    static char shown[80];
    (void)pthread_mutex_lock(&fake->lock);
    (void)snprintf(shown, sizeof(shown), "%s", fake->prepared);
    (void)pthread_mutex_unlock(&fake->lock);
    return shown;
}

size_t fake_docker_count(struct fake_docker *fake)
{
    (void)pthread_mutex_lock(&fake->lock);
    size_t count = fake->count;
    (void)pthread_mutex_unlock(&fake->lock);
    return count;
}

const char *fake_docker_made_of(struct fake_docker *fake, const char *name)
{
    (void)pthread_mutex_lock(&fake->lock);
    const struct fake_container *container = find(fake, name);
    free(fake->shown);
    fake->shown = container && container->body ? strdup(container->body) : NULL;
    (void)pthread_mutex_unlock(&fake->lock);
    return fake->shown ? fake->shown : "";
}

size_t fake_docker_asked(struct fake_docker *fake, const char *line)
{
    size_t count = 0;
    (void)pthread_mutex_lock(&fake->lock);
    for (size_t i = 0; i < fake->asked_count; i++)
        count += strstr(fake->asked[i], line) ? 1 : 0;
    (void)pthread_mutex_unlock(&fake->lock);
    return count;
}
