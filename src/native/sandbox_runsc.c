/* Owns what is different about a sandbox that the runtime "runsc" runs: its keeper is what lives
 * and dies, and its init is spoken to over a carrier. */
#include <string.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "native/sandbox.h"
#include "native/setup.h"
#include "wire/init_config.h"

enum { BUNDLE_MAX = 65536, CONFIG_MAX = 4096, DRAIN_TURNS = 16 };

void sandbox_runsc_done(struct setup_runsc *setup)
{
    initstream_close_ends(&setup->ends);
    buf_done(&setup->bundle);
    if (setup->config.data)
        explicit_bzero(setup->config.data, setup->config.size); /* the secret */
    buf_done(&setup->config);
}

/* None of the descriptors of this host's groups means anything in there. */
static int encode_config(const struct init_config *config, uint32_t pids_max,
                         const uint8_t secret[static CARRIER_SECRET_SIZE], struct buf *out,
                         struct err *err)
{
    struct init_config inside;
    init_config_clear(&inside);
    memcpy(inside.id, config->id, sizeof(inside.id));
    inside.carried = true;
    inside.nests = true;
    memcpy(inside.nonce, config->nonce, sizeof(inside.nonce));
    memcpy(inside.secret, secret, sizeof(inside.secret));
    memcpy(inside.fault, config->fault, sizeof(inside.fault));
    inside.uid = config->uid;
    inside.gid = config->gid;
    inside.profile = config->profile;
    inside.open_files_max = config->open_files_max;
    inside.pids_max = pids_max; /* of the code, not of gVisor's processes */
    inside.file_size_max = config->file_size_max;
    inside.lifetime_ms = config->lifetime_ms;
    inside.orphan_ms = config->orphan_ms;
    inside.cgroup_mode = INIT_CGROUP_SEEN;
    int result = init_config_encode(&inside, out, err);
    explicit_bzero(inside.secret, sizeof(inside.secret));
    return result;
}

int sandbox_runsc_prepare(const struct sandbox_host *host, const struct sandbox *sandbox,
                          const struct init_config *config, struct setup_runsc *out,
                          struct err *err)
{
    uint8_t secret[CARRIER_SECRET_SIZE];
    *out = (struct setup_runsc){.runsc = &host->runsc,
                                .memory_bytes = sandbox->spec.memory_bytes,
                                .ends = INITSTREAM_ENDS_INIT};
    buf_init(&out->bundle, BUNDLE_MAX);
    buf_init(&out->config, CONFIG_MAX);
    int result = initstream_make(host->run_fd, sandbox->id, secret, err);
    if (result == 0)
        result = initstream_open_ends(host->run_fd, sandbox->id, &out->ends, err);
    if (result == 0)
        result = runsc_write_bundle(&sandbox->spec, &out->bundle, err);
    if (result == 0)
        result = encode_config(config, sandbox->spec.pids_max, secret, &out->config, err);
    explicit_bzero(secret, sizeof(secret));
    return result;
}

static void close_way(struct sandbox *sandbox)
{
    initstream_close(sandbox->stream);
    sandbox->stream = NULL;
    sandbox->beat_at_ns = INT64_MAX;
}

static int open_way(const struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    if (sandbox->stream)
        return 0;
    sandbox->beat_at_ns = 0;
    return initstream_open(host->run_fd, sandbox->id, host->epoll_fd, (uint64_t)(uintptr_t)sandbox,
                           &sandbox->stream, err);
}

/* The next channel opens it again. */
static void lose_way(struct sandbox *sandbox, const struct err *err)
{
    if (err->kind == ERR_CLOSED)
        log_debug("sandbox %s: %s", sandbox->id, err->message);
    else
        log_warn("sandbox %s: its channels are closed: %s", sandbox->id, err->message);
    close_way(sandbox);
}

void sandbox_runsc_step(struct sandbox *sandbox)
{
    struct err err = ERR_INIT;
    if (sandbox->stream && initstream_step(sandbox->stream, &err) != 0)
        lose_way(sandbox, &err);
}

void sandbox_runsc_drain(struct sandbox *sandbox)
{
    for (int turn = 0; turn < DRAIN_TURNS && sandbox->stream; turn++)
        sandbox_runsc_step(sandbox);
}

int sandbox_runsc_started(const struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    fault_point("native.started");
    int result = open_way(host, sandbox, err);
    if (result == -ERR_NOT_FOUND) /* it has ended already: that is seen next, with its last words */
        return 0;
    return result != 0 ? err_wrap(err, "way to the init of %s", sandbox->id) : 0;
}

int sandbox_runsc_poll(struct sandbox *sandbox, struct err *err)
{
    int result = initstream_step(sandbox->stream, err);
    if (result != 0)
        return result;
    return initstream_is_up(sandbox->stream) ? 1 : 0;
}

int sandbox_runsc_connect(const struct sandbox_host *host, struct sandbox *sandbox, int *out_fd,
                          struct err *err)
{
    struct err failure = ERR_INIT;
    int result = open_way(host, sandbox, &failure);
    if (result == 0)
        result = initstream_channel(sandbox->stream, out_fd, &failure);
    if (result != 0)
        return err_set(err, ERR_UNAVAILABLE, "init of %s is not to be reached: %s", sandbox->id,
                       failure.message);
    sandbox_runsc_step(sandbox);
    return 0;
}

int64_t sandbox_runsc_beat(struct sandbox *sandbox, int64_t now_ns)
{
    struct err err = ERR_INIT;
    if (!sandbox->stream || sandbox->state == ENGINE_STATE_CREATING)
        return INT64_MAX;
    if (sandbox->beat_at_ns <= now_ns) {
        sandbox->beat_at_ns = now_ns + CARRIER_BEAT_MS * CLOCK_NS_PER_MS;
        if (initstream_beat(sandbox->stream, now_ns, &err) != 0)
            lose_way(sandbox, &err);
    }
    return sandbox->stream ? sandbox->beat_at_ns : INT64_MAX;
}
