/* Owns the look for what bears our instance's name: sandboxes of an earlier engine, whole,
 * half-made or half-gone, and their disks, sockets and layers. */
#include <stdlib.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/parse.h"
#include "native/initsock.h"
#include "native/service_internal.h"

#define SWEEP_MS 30000
#define SWEEP_MS_MAX 86400000
#define SWEEP_AGAIN_NS (100 * CLOCK_NS_PER_MS) /* when a sandbox could not be looked at */

void service_adopt(void *context, const char *id)
{
    struct service *service = context;
    if (service_find(service, id))
        return;
    struct sandbox *sandbox = sandbox_adopt(&service->host, id);
    if (!sandbox) {
        service->sweep_again = true;
        return;
    }
    service_adopt_layer(service, sandbox);
    log_info("found sandbox %s%s", id, sandbox->pid > 0 ? "" : ", without life: removing it");
    service_add(service, sandbox);
    if (sandbox->pidfd >= 0)
        (void)service_watch(service, sandbox->pidfd, (uint64_t)(uintptr_t)sandbox, EPOLLIN, NULL);
}

static void adopt_disk(void *context, const char *id, bool kept)
{
    struct service *service = context;
    if (service_find(service, id))
        return;
    struct err err = ERR_INIT;
    if (!kept) {
        log_info("removing the disk of %s, which is gone", id);
        if (disk_remove_unkept(&service->host.disks, id, &err) != 0)
            log_warn("disk of %s: %s", id, err.message);
        return;
    }
    struct sandbox *sandbox = sandbox_adopt_stopped(id);
    if (sandbox)
        service_add(service, sandbox);
}

/* The same of a stream. */
static void remove_stream(void *context, const char *id)
{
    struct service *service = context;
    if (!service_find(service, id))
        initstream_remove(service->host.run_fd, id);
}

/* A socket whose sandbox has no cgroup any more: the host was restarted in between. */
static void remove_socket(void *context, const char *id)
{
    struct service *service = context;
    if (!service_find(service, id))
        initsock_remove(service->host.run_fd, id);
}

void service_sweep(struct service *service)
{
    struct err err = ERR_INIT;
    service->sweep_at_ns = clock_now_ns() + service->sweep_ns;
    bool was_unsure = service->sweep_again;
    service->sweep_again = false;
    if (!service->host.usable)
        return;
    const struct sandbox_host *host = &service->host;
    bool has_groups = host->cgroups.count > 0;
    int result = has_groups ? cgroup_each(&host->cgroups, service_adopt, service, &err)
                            : initsock_each(host->run_fd, service_adopt, service, &err);
    if (service->sweep_again && service->sweep_ns > SWEEP_AGAIN_NS)
        service->sweep_at_ns = clock_now_ns() + SWEEP_AGAIN_NS;
    if (result != 0)
        log_warn("sweep: %s", err.message);
    else if (has_groups && service->sweep_again && !was_unsure)
        log_warn("not all that bears our name could be looked at: looking again until it is");
    /* Without knowing what lives, a disk or a socket must not be taken for left over. */
    if (result != 0 || (has_groups && service->sweep_again))
        return;
    if (host->disks.dir_fd >= 0 && disk_each(&host->disks, adopt_disk, service, &err) != 0)
        log_warn("it is not known what disks are kept: %s", err.message);
    else
        service->swept = true;
    if (has_groups && initsock_each(host->run_fd, remove_socket, service, &err) != 0)
        log_warn("sweep of sockets: %s", err.message);
    if (has_groups && initstream_each(host->run_fd, remove_stream, service, &err) != 0)
        log_warn("sweep of streams: %s", err.message);
    service_sweep_layers(service);
    service_sweep_networks(service);
}

/* Tests ask for a shorter one; a wrong figure is none. */
int64_t service_sweep_interval_ns(void)
{
    uint64_t ms = SWEEP_MS;
    const char *text = fault_is_testing() ? getenv("BERTH_SWEEP_MS") : NULL;
    if (text && parse_u64(text, 1, SWEEP_MS_MAX, &ms, NULL) != 0)
        ms = SWEEP_MS;
    return (int64_t)ms * CLOCK_NS_PER_MS;
}
