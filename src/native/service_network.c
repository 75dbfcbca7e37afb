/* Owns what the event loop does about network "full". */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/log.h"
#include "native/service_internal.h"

/* The rules stay for whoever comes next, shortly. */
#define TIDY_NS CLOCK_NS_PER_S

/* The number of its id range: of an adopted one its init tells, whose first id is the range's. */
static int find_index(const struct sandbox_host *host, const struct sandbox *sandbox, uint32_t *out,
                      struct err *err)
{
    char path[48];
    char text[64];
    char *end = text;
    if (sandbox->ids.lock_fd >= 0) {
        *out = sandbox->ids.index;
        return 0;
    }
    (void)snprintf(path, sizeof(path), "/proc/%d/uid_map", (int)sandbox->pid);
    ssize_t size = fd_read_file_at(AT_FDCWD, path, text, sizeof(text), err);
    if (size < 0)
        return (int)size;
    (void)strtoul(text, &end, 10); /* the kernel's own writing: inside, outside, count */
    unsigned long base = strtoul(end, NULL, 10);
    unsigned long index =
        base < host->ids.first ? host->ids.count : (base - host->ids.first) / host->ids.size;
    if (index >= host->ids.count)
        return err_set(err, ERR_INTERNAL, "the ids of sandbox %s are not ours", sandbox->id);
    *out = (uint32_t)index;
    return 0;
}

/* Its init's: the code has no right over it, and can't have moved init. */
static int open_netns(const struct sandbox *sandbox, int *out_fd, struct err *err)
{
    char path[48];
    (void)snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)sandbox->pid);
    *out_fd = open(path, O_RDONLY | O_CLOEXEC);
    return *out_fd < 0 ? err_sys(err, errno, "open the network of %s", sandbox->id) : 0;
}

static int change(struct sandbox_host *host, struct sandbox *sandbox, bool full, struct err *err)
{
    FD_AUTO int netns_fd = -1;
    struct pollfd init = {.fd = sandbox->pidfd, .events = POLLIN};
    if (!full && !sandbox->has_network)
        return 0;
    int result = find_index(host, sandbox, &sandbox->network_index, err);
    if (result == 0 && !full) {
        result = network_take(&host->networks, sandbox->network_index, err);
        sandbox->has_network = result != 0;
        return result;
    }
    if (result == 0)
        result = open_netns(sandbox, &netns_fd, err);
    /* Alive after its number was used: it was nobody else's. */
    if (result == 0 && poll(&init, 1, 0) != 0)
        result = err_set(err, ERR_CONFLICT, "sandbox %s has ended", sandbox->id);
    if (result != 0)
        return result;
    sandbox->has_network = true; /* also of a failure something may be left */
    fault_point("native.network");
    return network_give(&host->networks, sandbox->id, sandbox->network_index, netns_fd, err);
}

static int find_and_change(struct service *service, const struct engine_msg *request,
                           struct err *err)
{
    struct sandbox *sandbox = NULL;
    if (service->stopping)
        return err_set(err, ERR_UNAVAILABLE, "the engine is stopping");
    if (!service->host.networks.offered && request->full)
        return err_public(err, ERR_UNSUPPORTED, "network: this host has no \"full\"");
    int result = service_find_or_adopt(service, request->id, &sandbox, err);
    if (result != 0)
        return result;
    if (!sandbox || sandbox->state != ENGINE_STATE_RUNNING)
        return err_set(err, ERR_CONFLICT, "no sandbox %s runs", request->id);
    if (sandbox->runsc && request->full)
        return err_public(err, ERR_UNSUPPORTED, "the runtime \"runsc\" has no network \"full\"");
    return change(&service->host, sandbox, request->full, err);
}

void service_on_network(struct service *service, const struct engine_msg *request)
{
    struct err err = ERR_INIT;
    if (find_and_change(service, request, &err) == 0) {
        service_answer_done(service, request->op, request->request_id);
        return;
    }
    log_warn("network of %s: %s", request->id, err.message);
    service_answer_error(service, request->op, request->request_id, &err);
}

/* A sandbox that an earlier engine gave its network is known to have it from here on. */
static bool lives(void *context, const char *id)
{
    struct service *service = context;
    struct sandbox *sandbox = service_find(service, id);
    if (!sandbox || sandbox->state == ENGINE_STATE_STOPPED)
        return false;
    if (sandbox->has_network || sandbox->pid == 0)
        return sandbox->has_network;
    sandbox->has_network = find_index(&service->host, sandbox, &sandbox->network_index, NULL) == 0;
    return true;
}

void service_sweep_networks(struct service *service)
{
    struct err err = ERR_INIT;
    /* Not knowing what lives it would take all of them for left over. */
    if (!service->swept || service->sweep_again)
        return;
    if (network_sweep(&service->host.networks, lives, service, &err) != 0)
        log_warn("sweep of networks: %s", err.message);
}

int64_t service_step_networks(struct service *service, int64_t now_ns)
{
    if (!service->host.networks.tidy) {
        service->networks_at_ns = INT64_MAX;
    } else if (service->networks_at_ns == INT64_MAX) {
        service->networks_at_ns = now_ns + TIDY_NS;
    } else if (service->networks_at_ns <= now_ns) {
        service_sweep_networks(service);
        service->networks_at_ns = INT64_MAX;
    }
    return service->networks_at_ns;
}
