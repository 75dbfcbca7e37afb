/* What the files of the event loop share. For service*.c only. */
#ifndef BERTH_NATIVE_SERVICE_INTERNAL_H
#define BERTH_NATIVE_SERVICE_INTERNAL_H

#include "native/sandbox.h"
#include "native/service.h"
#include "native/zygote.h"

struct service {
    const struct service_config *config;
    struct sandbox_host host;
    struct zygotes zygotes;
    int signal_fd;
    int client_fd; /* -1: none */
    struct sandbox *sandboxes;
    int64_t sweep_ns; /* from one sweep to the next */
    int64_t sweep_at_ns;
    bool sweep_again; /* something could not be adopted now */
    bool swept;       /* what lives is known: all of it has been looked at once */
    int64_t images_at_ns;
    int64_t layers_at_ns;
    int64_t networks_at_ns; /* INT64_MAX: nothing is to be tidied */
    bool layers_unsure;     /* of a sandbox it is not known what layer it shows */
    bool stopping;
    int64_t stop_ns; /* stopping: when to end, whatever is left */
};

/* ---- service.c ---- */

/* To the client, if there is one; fd goes along, -1 for none. */
void service_answer(struct service *service, const struct engine_msg *msg, int fd);
void service_answer_error(struct service *service, uint32_t op, uint64_t request_id,
                          const struct err *error);
void service_answer_done(struct service *service, uint32_t op, uint64_t request_id);

/* The sandbox of that id; *out is NULL when there is none. Without groups it may not have been
 * found yet: ERR_UNAVAILABLE while its init is too busy. The same of any that is not known while
 * nobody could look what lives. */
int service_find_or_adopt(struct service *service, const char *id, struct sandbox **out,
                          struct err *err);

/* Watches fd; data is an enum source of service.c, or a struct sandbox. */
int service_watch(struct service *service, int fd, uint64_t data, uint32_t events, struct err *err);

struct sandbox *service_find(const struct service *service, const char *id);
void service_add(struct service *service, struct sandbox *sandbox);

/* ---- service_sweep.c ---- */

/* Takes a sandbox over that is not known yet, or notes that another sweep has to. context: the
 * service. */
void service_adopt(void *context, const char *id);

/* Everything that bears our instance's name and that we do not know: what an earlier engine left,
 * whole or half-made, and what went wrong since. */
void service_sweep(struct service *service);
int64_t service_sweep_interval_ns(void);

/* ---- service_layers.c ---- */

int service_open_layers(struct service *service, struct err *err);
/* The operations ENGINE_OP_LAYER_*; *passed_fd came along and is taken by the one that wants it. */
void service_on_layer(struct service *service, const struct engine_msg *request, int *passed_fd);
/* The client is gone. */
void service_forget_layers(struct service *service);
/* What is due; returns when it wants to be called again. */
int64_t service_step_layers(struct service *service);
/* Perhaps the child that attaches a sandbox's layer has ended: answers then. */
void service_attach_event(struct service *service, struct sandbox *sandbox);
/* A sandbox has ended, and may have had a layer. */
void service_layer_let_go(struct service *service);
/* The layer of a sandbox that an earlier engine made. */
void service_adopt_layer(struct service *service, struct sandbox *sandbox);
/* All that lives is known. */
void service_sweep_layers(struct service *service);

/* ---- service_network.c ---- */

/* ENGINE_OP_NETWORK. */
void service_on_network(struct service *service, const struct engine_msg *request);
/* Interfaces that no sandbox has any more, and rules that somebody took away. */
void service_sweep_networks(struct service *service);
/* What is due; returns when it wants to be called again. */
int64_t service_step_networks(struct service *service, int64_t now_ns);

#endif
