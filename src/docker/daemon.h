/* What is known of the Docker daemon: whether it answers, its version, what it can do.
 *
 * It is asked again for as long as it lives, so a daemon that goes and comes back, or becomes
 * another one, is noticed by itself. */
#ifndef BERTH_DOCKER_DAEMON_H
#define BERTH_DOCKER_DAEMON_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "docker/address.h"
#include "docker/loop.h"
#include "docker/web.h"
#include "wire/engine_msg.h"

/* API versions (docs.docker.com/engine/api): from Docker 19.03 on; what newer ones changed does not
 * concern us, so a daemon that knows only newer ones is spoken to in the oldest of those. */
#define DAEMON_API_LEAST 40 /* 1.40 */
#define DAEMON_API_MOST 47

struct daemon_facts {
    char api[16];                  /* put before a path: "/v1.41" */
    char version[ENGINE_NAME_MAX]; /* "20.10.24" */
    char driver[ENGINE_NAME_MAX];  /* of its storage */
    char cgroup_mode[16];
    uint64_t memory_bytes;
    uint32_t cpus;
    bool limits_memory;
    bool limits_cpu;
    bool limits_pids;
    bool quota;     /* its storage driver may know sizes */
    bool is_podman; /* which has no call to change limits, and one runtime for all */
    char runc_version[ENGINE_NAME_MAX];
    struct engine_runtime runtimes[ENGINE_RUNTIMES_MAX]; /* the daemon's default first */
    bool gvisor[ENGINE_RUNTIMES_MAX]; /* which of them are runsc, whatever they are called */
    size_t runtime_count;
};

struct daemon {
    struct loop *loop;
    struct address
        address;     /* of one that has answered once: it stays, for its containers are there */
    struct web *web; /* NULL: no address could be found */
    bool is_up;
    bool knew; /* facts hold what some answer said, perhaps an older one */
    struct daemon_facts facts;
    struct err why; /* not up: what is wrong */
    bool was_tried;
    bool was_slow; /* the last question was not answered in time: one more decides */
    /* Called when it answers, after each time that it did not; and when it does not any more, or
     * did not the first time. */
    void (*on_up)(void *context);
    void (*on_down)(void *context);
    void *context;

    struct web_call *call;
    struct loop_timer timer;
    int64_t pause_ns;
    int64_t facts_at_ns; /* when they were asked for */
    struct daemon_facts next;
};

/* context, on_up, on_down and loop are set by the caller before. Begins to ask. */
void daemon_start(struct daemon *daemon);
void daemon_stop(struct daemon *daemon);
/* Whether a runtime is gVisor's: by what the daemon runs, or by its name where that is not known.
 */
bool daemon_is_gvisor(const struct daemon_facts *facts, const char *runtime);
/* A call failed, a connection broke: looks whether it still answers, now. */
void daemon_doubt(struct daemon *daemon);

/* A request of the API; path without its version. body is taken, NULL: none. Refuses with the words
 * of `why` while the daemon is not up. */
int daemon_call(struct daemon *daemon, const char *method, const char *path, struct buf *body,
                int64_t timeout_ns, web_done_fn done, void *context, struct web_call **out,
                struct err *err);

/* PUT of a file's bytes, which is a tar. The descriptor stays the caller's. */
int daemon_upload(struct daemon *daemon, const char *path, int fd, uint64_t size_bytes,
                  int64_t timeout_ns, web_done_fn done, void *context, struct web_call **out,
                  struct err *err);

/* Fills *err with ERR_UNAVAILABLE in public words about a daemon that can't be reached. */
int daemon_away(const struct daemon *daemon, struct err *err);

/* For tests: reads the daemon's answers to GET /version and GET /info. */
int daemon_read_version(const struct buf *body, struct daemon_facts *facts, struct err *err);
int daemon_read_info(const struct buf *body, struct daemon_facts *facts, struct err *err);

#endif
