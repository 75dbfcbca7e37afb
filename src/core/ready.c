/* Owns the way from a plan to a sandbox with a kernel that waits for code: what the pool has is
 * given the plan's limits; what it has not is made now. */
#include "core/ready.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/kernel_input.h"
#include "core/network_use.h"
#include "lang/lang.h"

#define KERNEL_NS (60 * CLOCK_NS_PER_S) /* for a kernel to be ready */
#define LIMIT_NS (2 * CLOCK_NS_PER_S)   /* for an engine to change limits */

/* ---- the kernel ---- */

/* Whether a variable comes too late for a kernel of that language that waits. */
static bool needs_own_start(const struct lang *lang, const char *entry)
{
    size_t name_size = strcspn(entry, "=");
    for (size_t i = 0; i < LANG_NAMES_MAX && lang->at_start[i]; i++) {
        const char *pattern = lang->at_start[i];
        size_t size = strcspn(pattern, "*");
        bool prefix = pattern[size] == '*';
        if (strncmp(entry, pattern, size) == 0 && (prefix || size == name_size))
            return true;
    }
    return false;
}

/* The same of all that the kernel is to have from its start on. */
static bool wants_own_start(const struct ready_want *want)
{
    const struct plan *plan = want->plan;
    size_t count = 0;
    const char *const *network = network_env(&plan->network, plan->image, &count);
    bool wants = false;
    for (size_t i = 0; plan->kernel && i < want->env_count; i++)
        wants = wants || needs_own_start(plan->kernel, want->env[i]);
    for (size_t i = 0; plan->kernel && want->network_at_start && i < count; i++)
        wants = wants || needs_own_start(plan->kernel, network[i]);
    return wants;
}

/* Starts the language's kernel and waits for it. *out: whether it lives; a language that can't be
 * started here is no failure. */
static int start_kernel(struct core *core, struct channel *channel, const struct plan *plan,
                        int cancel_fd, int gone_fd, bool *out, struct err *err)
{
    const struct lang *lang = plan->kernel;
    *out = false;
    if (!lang)
        return 0;
    const char *argv[LANG_ARGS_MAX + 1] = {NULL};
    size_t argc = 0;
    for (; argc < LANG_ARGS_MAX && lang->kernel_run[argc]; argc++)
        argv[argc] = lang->kernel_run[argc];
    struct sandbox_kernel kernel = {
        .cwd = "/workspace", .argv = argv, .argc = argc, .envp = plan->envp, .envc = plan->envc};
    if (lang->protocol == LANG_PROTOCOL_LINES)
        kernel.protocol = SANDBOX_KERNEL_LINES;
    kernel_input_get(core, lang, plan, &kernel.input, &kernel.input_size);
    const struct channel_watch watch = {.cancel_fd = cancel_fd,
                                        .interrupt_fd = -1,
                                        .gone_fd = gone_fd,
                                        .deadline_ns = clock_now_ns() + KERNEL_NS};
    struct err failure = ERR_INIT;
    int result = channel_kernel(channel, &kernel, &watch, &failure);
    if (result != 0 && result != -ERR_BAD_INPUT && result != -ERR_UNSUPPORTED)
        return err_copy(err, &failure);
    if (result != 0)
        log_info("the kernel of %s: %s", lang->name, failure.message);
    *out = result == 0;
    return 0;
}

/* ---- from the pool ---- */

/* Gives one of the pool the plan's figures, as far as they are other than it was made with. */
static int set_limits(struct core *core, const struct plan *plan, const struct pool_item *item,
                      struct err *err)
{
    const struct resources *resources = &plan->resources;
    struct engine *engine = NULL;
    if (resources->memory_bytes == item->memory_bytes &&
        resources->storage_bytes == item->storage_bytes &&
        resources->cpu_millis == item->cpu_millis)
        return 0;
    struct engine_create spec = {.memory_bytes = resources->memory_bytes,
                                 .storage_bytes = resources->storage_bytes,
                                 .cpu_millis = resources->cpu_millis,
                                 .pids_max = core->config.pids_max};
    memcpy(spec.id, item->sandbox_id, sizeof(spec.id));
    int result = slot_engine(plan->slot, &engine, err);
    if (result == 0)
        result = engine_limit(engine, &spec, clock_now_ns() + LIMIT_NS, err);
    if (result == 0) {
        const struct sandbox_limits limits = {.file_size_max = resources->storage_bytes +
                                                               SANDBOX_FILE_SIZE_SPARE};
        if (resources->storage_bytes != 0) /* else nobody bounds it */
            channel_limits_later(item->channel, &limits);
    }
    return result;
}

/* Says nothing for a sandbox without, which it is from the start. */
static void give_network_later(struct channel *channel, const struct plan *plan)
{
    const struct sandbox_network network = {.mode = SANDBOX_NETWORK_EGRESS};
    if (plan->network.mode == NETWORK_EGRESS)
        channel_network_later(channel, &network);
}

/* Gives one of the pool what it is wanted with. */
static int fit_out(struct core *core, struct live *live, int gone_fd, const struct ready_want *want,
                   struct pool_item *item, struct err *err)
{
    const struct plan *plan = want->plan;
    const struct box_life *life = want->life;
    const struct sandbox_timers timers = {.lifetime_ms = life->lifetime_ms == 0 ? SANDBOX_NEVER
                                                                                : life->lifetime_ms,
                                          .orphan_ms = life->orphan_ms};
    int result = set_limits(core, plan, item, err);
    if (result != 0)
        return result;
    channel_timers_later(item->channel, &timers);
    bool late = want->network_at_start && plan->network.mode != NETWORK_NONE;
    give_network_later(item->channel, plan);
    if (item->kernel && (want->env_count > 0 || late))
        result =
            start_kernel(core, item->channel, plan, live->cancel_fd, gone_fd, &item->kernel, err);
    if (result == 0 && !box_give(core, item->sandbox_id, live, &plan->resources.reserve))
        result = err_set(err, ERR_CLOSED, "it has died");
    return result;
}

static bool take_from_pool(struct core *core, struct live *live, int gone_fd,
                           const struct ready_want *want, struct ready *out)
{
    struct pool_item item;
    if (want->fresh || want->plan->resources.gpu_count > 0) /* what is made ahead has none */
        return false;
    if (wants_own_start(want))
        return false;
    const struct engine_wait wait = {.cancel_fd = live->cancel_fd, .gone_fd = gone_fd};
    while (!engine_wait_is_over(&wait, 0) && pool_take(core->pool, want->plan, &item)) {
        struct err failure = ERR_INIT;
        if (fit_out(core, live, gone_fd, want, &item, &failure) == 0) {
            memcpy(out->sandbox_id, item.sandbox_id, sizeof(out->sandbox_id));
            memcpy(out->nonce, item.nonce, sizeof(out->nonce));
            out->channel = item.channel;
            out->kernel = item.kernel;
            out->pooled = true;
            return true;
        }
        log_info("sandbox %s of the pool is not used: %s", item.sandbox_id, failure.message);
        atomic_fetch_add(&core->metrics.pool_discarded, 1);
        /* It lives and uses more than the request asks for, as a kernel that waits does; of one
         * that has ended an engine says the same. */
        bool too_small = failure.kind == ERR_CONFLICT && channel_alive(item.channel);
        box_destroy(core, item.sandbox_id);
        channel_close(item.channel);
        /* The next one would fare no better, and the stock is worth keeping. */
        if (too_small || engine_is_away(&failure) || failure.kind == ERR_TIMEOUT ||
            failure.kind == ERR_UNSUPPORTED)
            return false;
    }
    return false;
}

/* ---- made now ---- */

/* A sandbox that ended before any code of the caller's ran: to try again is right. */
static int lost(struct err *failure, struct err *err)
{
    if (failure->kind == ERR_CLOSED || failure->kind == ERR_TIMEOUT ||
        failure->kind == ERR_PROTOCOL) {
        failure->kind = ERR_UNAVAILABLE;
        failure->retry_after_s = 1;
        (void)snprintf(failure->public_message, sizeof(failure->public_message),
                       "the sandbox ended before the code could run; try again");
    }
    return err_copy(err, failure);
}

static int make_now(struct core *core, struct live *live, int gone_fd,
                    const struct ready_want *want, struct ready *out, struct err *err)
{
    FD_AUTO int fd = -1;
    struct err failure = ERR_INIT;
    int result = box_create(core, live, gone_fd, want->plan, want->life, out->sandbox_id, &fd,
                            out->nonce, err);
    if (result != 0) {
        out->sandbox_id[0] = '\0';
        return result;
    }
    result = channel_open(fd_take(&fd), out->nonce, &out->channel, &failure);
    if (result == 0)
        give_network_later(out->channel, want->plan);
    if (result == 0)
        result = start_kernel(core, out->channel, want->plan, live->cancel_fd, gone_fd,
                              &out->kernel, &failure);
    if (result == 0)
        return 0;
    const struct engine_wait wait = {.cancel_fd = live->cancel_fd, .gone_fd = gone_fd};
    (void)live_leave_box(core, live);
    bool cancelled = engine_wait_is_over(&wait, 0);
    box_destroy(core, out->sandbox_id);
    channel_close(out->channel);
    *out = (struct ready){0};
    return cancelled ? err_set(err, ERR_CLOSED, "cancelled while a kernel started")
                     : lost(&failure, err);
}

/* Egress hears of it before the code can connect anywhere, if it can hear at all. */
static int attach_network(struct core *core, const struct live *live, const struct plan *plan,
                          const struct ready *ready, struct err *err)
{
    struct err failure = ERR_INIT;
    if (plan->network.mode == NETWORK_NONE)
        return 0;
    int result =
        network_give(core, ready->sandbox_id, live->owner, ready->nonce, &plan->network, err);
    if (result != 0 || network_settle(core, ready->sandbox_id, &failure) == 0)
        return result;
    if (plan->network.mode == NETWORK_FULL)
        return err_copy(err, &failure);
    log_info("sandbox %s has no way out yet: %s", ready->sandbox_id, failure.message);
    return 0;
}

int ready_make(struct core *core, struct live *live, int gone_fd, const struct ready_want *want,
               struct ready *out, struct err *err)
{
    *out = (struct ready){0};
    int result = take_from_pool(core, live, gone_fd, want, out)
                     ? 0
                     : make_now(core, live, gone_fd, want, out, err);
    if (result == 0)
        result = attach_network(core, live, want->plan, out, err);
    if (result != 0 && out->sandbox_id[0] != '\0') {
        box_destroy(core, out->sandbox_id);
        channel_close(out->channel);
        *out = (struct ready){0};
    }
    return result;
}

int ready_make_ahead(struct core *core, const struct plan *plan, int cancel_fd,
                     struct pool_item *out, struct err *err)
{
    FD_AUTO int fd = -1;
    if (plan->kernel)
        kernel_input_prepare(core, plan->kernel, plan, cancel_fd);
    *out = (struct pool_item){.memory_bytes = plan->resources.memory_bytes,
                              .storage_bytes = plan->resources.storage_bytes,
                              .cpu_millis = plan->resources.cpu_millis};
    int result = box_create_ahead(core, plan, cancel_fd, out->sandbox_id, &fd, out->nonce, err);
    if (result != 0)
        return result;
    result = channel_open(fd_take(&fd), out->nonce, &out->channel, err);
    if (result == 0)
        result = start_kernel(core, out->channel, plan, cancel_fd, -1, &out->kernel, err);
    if (result != 0) {
        box_destroy(core, out->sandbox_id);
        channel_close(out->channel);
    }
    return result;
}
