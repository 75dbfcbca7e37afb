/* What a sandbox is to the Docker daemon: its name, its labels, the JSON of its container, the
 * files that are put into it. No I/O.
 *
 * The labels are the truth about a sandbox: whoever comes later has only them. They are not seen
 * inside. */
#ifndef BERTH_DOCKER_SPEC_H
#define BERTH_DOCKER_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "docker/daemon.h"
#include "wire/carrier.h"
#include "wire/engine_msg.h"

struct json_t;

#define SPEC_INSTANCE_SIZE 9
#define SPEC_NAME_SIZE (sizeof("berth--") + SPEC_INSTANCE_SIZE + SANDBOX_ID_MAX)
#define SPEC_GPUS_MAX 32

#define SPEC_LABEL_INSTANCE "berth.instance"
#define SPEC_LABEL_SANDBOX "berth.sandbox"
#define SPEC_LABEL_SECRET "berth.secret"
#define SPEC_LABEL_NONCE "berth.nonce"
#define SPEC_LABEL_KEEP "berth.keep"
#define SPEC_LABEL_RUNTIME "berth.runtime"
#define SPEC_LABEL_PROFILE "berth.profile"
#define SPEC_LABEL_GPUS "berth.gpus"

/* One sandbox, as it is asked for and as it is noted in labels. */
struct spec {
    const char *instance;
    const struct engine_create *create;
    const char *runtime;
    bool gvisor;           /* the runtime is runsc, whose own processes and memory count as well */
    bool again;            /* it was made before: what lies there stays whose it is */
    bool quota;            /* the storage driver is to bound the writable root */
    const uint8_t *secret; /* CARRIER_SECRET_SIZE */
    const uint8_t *nonce;  /* SANDBOX_NONCE_SIZE */
    const char *prepared;  /* an image that has init in it already; NULL: none */
    uint32_t gpus;         /* bit N: GPU number N is its own */
};

void spec_name(const char *instance, const char *id, char out[static SPEC_NAME_SIZE]);

/* Whether a request of the server is within what this engine allows; the image and the runtime are
 * looked up elsewhere. ERR_BAD_INPUT, ERR_UNSUPPORTED. */
int spec_check(const struct engine_create *create, struct err *err);
/* The limits alone; 0 leaves one as it is. */
int spec_check_limits(const struct engine_create *create, bool may_leave, struct err *err);

/* The body of POST /containers/create. */
int spec_put_container(const struct spec *spec, struct buf *out, struct err *err);
/* The body of POST /containers/ID/update; 0 leaves a limit as it is. */
int spec_put_limits(const struct engine_create *create, bool gvisor, struct buf *out,
                    struct err *err);
/* The archive of PUT /containers/ID/archive: init (its bytes) and what it is told. */
int spec_put_archive(const struct spec *spec, const void *init, size_t init_size, struct buf *out,
                     struct err *err);

/* The same for a container that an image is prepared in (prepare.h): nothing that is one sandbox's.
 * container: the profile. */
int spec_put_folders(bool container, const void *init, size_t init_size, struct buf *out,
                     struct err *err);
/* JSON as the body of a request; NULL: no memory. */
int spec_put_json(const struct json_t *json, struct buf *out, struct err *err);

#endif
