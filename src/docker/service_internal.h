/* What the files of the engine share. */
#ifndef BERTH_DOCKER_SERVICE_INTERNAL_H
#define BERTH_DOCKER_SERVICE_INTERNAL_H

#include "docker/container.h"
#include "docker/daemon.h"
#include "docker/events.h"
#include "docker/image.h"
#include "docker/layers.h"
#include "docker/loop.h"
#include "docker/prepare.h"
#include "docker/service.h"

struct service {
    const struct service_config *config;
    struct loop *loop;
    struct daemon daemon;
    struct images images;
    struct prepares prepares;
    struct layers *layers; /* NULL: this process keeps none */
    struct events events;
    struct container *containers;
    int client_fd; /* -1: none */
    struct loop_watch *client_watch;
    struct loop_watch *listen_watch;
    struct loop_watch *signal_watch;
    int signal_fd;
    bool synced; /* all that the daemon has of ours is known */
    bool quota;  /* sizes of writable roots are taken by the storage driver */
    uint32_t gpu_count;
    bool runc_accepted; /* BERTH_DOCKER_RUNC_OK */
    struct web_call *list_call;
    int64_t listed_ns; /* when the list that is under way was asked for */
    bool list_again;   /* it is older than what is wanted: another one follows */
    struct loop_timer listen_timer;
    struct loop_timer sweep_timer;
    int64_t sweep_ns;
    bool stopping;
    int64_t stop_ns;
};

/* ---- service.c ---- */

/* To the client, if there is one; fd goes along, -1 for none. */
void service_answer(struct service *service, const struct engine_msg *msg, int fd);
void service_answer_error(struct service *service, uint32_t op, uint64_t request_id,
                          const struct err *error);
void service_answer_done(struct service *service, uint32_t op, uint64_t request_id);
/* Clients are let in: what there is to know of the daemon is known. Idempotent. */
void service_listen(struct service *service);
struct container *service_find(const struct service *service, const char *id);
/* An empty one in the table; NULL without memory. */
struct container *service_add(struct service *service, const char *id);

/* ---- service_layers.c ---- */

/* ENGINE_OP_LAYER_*; *passed_fd is taken by the one that wants it. */
void service_on_layer(struct service *service, const struct engine_msg *request, int *passed_fd);
int service_open_layers(struct service *service, struct err *err);

/* ---- info.c ---- */

void info_fill(const struct service *service, struct engine_info *out);
/* What sandboxes of a runtime can do here. */
uint64_t info_capabilities(const struct service *service, const char *runtime);

/* ---- sweep.c ---- */

/* Asks the daemon for all containers of this instance, and makes the table of it: what lives is
 * adopted, what died is said to have died, what nobody wants is removed. Again at intervals. */
void sweep_start(struct service *service);
void sweep_stop(struct service *service);
/* For tests: takes the daemon's list. */
int sweep_take(struct service *service, const struct buf *body, struct err *err);

#endif
