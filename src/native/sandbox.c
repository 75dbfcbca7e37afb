/* Owns the steps of making and ending one sandbox. Refuses what the configuration of this host does
 * not allow, whatever the server asks for. */
#include "native/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fault.h"
#include "base/fd.h"
#include "base/id.h"
#include "base/log.h"
#include "base/mem.h"
#include "native/asuser.h"
#include "native/disk_make.h"
#include "native/initsock.h"
#include "native/limit.h"
#include "native/rootfs.h"
#include "native/setup.h"
#include "native/zygote.h"

#define CREATE_TIMEOUT_NS (10 * CLOCK_NS_PER_S)
#define START_TIMEOUT_NS (60 * CLOCK_NS_PER_S) /* its disk may have to be checked */
#define CLEANUP_RETRY_NS (2 * CLOCK_NS_PER_MS)
#define TIME_MAX_MS (UINT64_C(1) << 40) /* 34 years; as nanoseconds it fits an int64_t */

enum { OPEN_FILES_MAX = 1048576 };

static int check_spec(const struct engine_create *spec, struct err *err)
{
    if (!id_is_name(spec->id, SANDBOX_ID_MAX))
        return err_set(err, ERR_BAD_INPUT, "sandbox id \"%s\"", spec->id);
    if (strcmp(spec->profile, "strict") != 0 && strcmp(spec->profile, "container") != 0)
        return err_public(err, ERR_UNSUPPORTED,
                          "profile \"%s\": this engine has \"strict\" and \"container\"",
                          spec->profile);
    int result = limit_check(spec, false, err);
    if (result != 0)
        return result;
    if (spec->open_files_max < 16 || spec->open_files_max > OPEN_FILES_MAX)
        return err_set(err, ERR_BAD_INPUT, "%u open files", spec->open_files_max);
    if (spec->lifetime_ms > TIME_MAX_MS || spec->orphan_ms > TIME_MAX_MS)
        return err_set(err, ERR_BAD_INPUT, "lifetime of %" PRIu64 " ms, orphaned %" PRIu64 " ms",
                       spec->lifetime_ms, spec->orphan_ms);
    return 0;
}

/* What this host has for it. */
static int check_host(const struct sandbox_host *host, uint32_t op,
                      const struct engine_create *spec, struct err *err)
{
    bool container = strcmp(spec->profile, "container") == 0;
    bool runsc = strcmp(spec->runtime, RUNSC_NAME) == 0;
    if (spec->runtime[0] != '\0' && strcmp(spec->runtime, "native") != 0 &&
        !(runsc && host->runsc.usable))
        return err_public(err, ERR_BAD_INPUT, "runtime \"%s\": this engine has \"native\"%s",
                          spec->runtime, host->runsc.usable ? " and \"" RUNSC_NAME "\"" : "");
    int result = runsc ? runsc_check(spec, err) : 0;
    if (result != 0)
        return result;
    if (container && !image_keeps_owners(&host->image))
        return err_public(err, ERR_UNSUPPORTED,
                          "profile \"container\" needs id-mapped mounts, and this host has none");
    if ((spec->disk || spec->keep_files || op == ENGINE_OP_START) && !host->disks_usable)
        return err_public(err, ERR_UNSUPPORTED, "this host has no disks for sandboxes");
    if ((spec->keep_files || op == ENGINE_OP_START) && !spec->disk)
        return err_set(err, ERR_BAD_INPUT, "only files on a disk can be kept");
    if (op == ENGINE_OP_START && !disk_is_kept(&host->disks, spec->id))
        return err_set(err, ERR_NOT_FOUND, "no stopped sandbox %s", spec->id);
    return 0;
}

static int take_image(struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    const char *name = sandbox->spec.image;
    if (strcmp(name, "host") == 0)
        return 0;
    if (!host->images)
        return err_public(err, ERR_BAD_INPUT, "image \"%s\": this engine has the image \"host\"",
                          name);
    return images_take(host->images, name, &sandbox->folder, err);
}

static int begin_disk(struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    const struct engine_create *spec = &sandbox->spec;
    if (!spec->disk)
        return 0;
    if (sandbox->create_op == ENGINE_OP_START)
        return disk_begin_kept(&host->disks, spec->id, &sandbox->disk_job, err);
    return disk_begin(&host->disks, spec->id, spec->storage_bytes, spec->keep_files,
                      &sandbox->disk_job, err);
}

static struct sandbox *sandbox_new(const char *id)
{
    struct sandbox *sandbox = calloc(1, sizeof(*sandbox));
    if (!sandbox)
        return NULL;
    (void)snprintf(sandbox->id, sizeof(sandbox->id), "%s", id);
    sandbox->state = ENGINE_STATE_CREATING;
    sandbox->pidfd = sandbox->setup_fd = sandbox->ids.lock_fd = sandbox->userns_fd = -1;
    sandbox->kernel_userns_fd = sandbox->kernel_fd = sandbox->kernel_pass_fd = -1;
    sandbox->disk_fd = sandbox->folder.root_fd = sandbox->folder.lock_fd = -1;
    sandbox->layer_lock_fd = -1;
    sandbox->disk_job = DISK_JOB_INIT;
    sandbox->attach = LAYER_ATTACH_INIT;
    sandbox->deadline_ns = sandbox->kernel_give_up_ns = sandbox->beat_at_ns = INT64_MAX;
    return sandbox;
}

void sandbox_unwatch(const struct sandbox_host *host, int *fd)
{
    if (*fd >= 0)
        (void)epoll_ctl(host->epoll_fd, EPOLL_CTL_DEL, *fd, NULL); /* ENOENT: not watched yet */
    fd_close(fd);
}

/* What only the making of the root needs. */
static void close_root_parts(const struct sandbox_host *host, struct sandbox *sandbox)
{
    if (host && !sandbox->runsc && zygotes_want(host->zygotes, &sandbox->spec))
        sandbox->kernel_userns_fd = fd_take(&sandbox->userns_fd);
    fd_close(&sandbox->userns_fd);
    fd_close(&sandbox->disk_fd);
    fd_close(&sandbox->folder.root_fd);
    fd_close(&sandbox->folder.lock_fd);
    gpu_set_release(&sandbox->gpus);
}

void sandbox_free(struct sandbox *sandbox)
{
    if (!sandbox)
        return;
    initstream_close(sandbox->stream);
    fd_close(&sandbox->pidfd);
    fd_close(&sandbox->setup_fd);
    close_root_parts(NULL, sandbox);
    fd_close(&sandbox->kernel_userns_fd);
    fd_close(&sandbox->kernel_fd);
    fd_close(&sandbox->kernel_pass_fd);
    disk_abort(&sandbox->disk_job);
    layer_attach_abort(&sandbox->attach);
    fd_close(&sandbox->layer_lock_fd);
    idrange_release(&sandbox->ids);
    free(sandbox);
}

int sandbox_connect(const struct sandbox_host *host, struct sandbox *sandbox, int *out_fd,
                    struct err *err)
{
    if (sandbox->runsc)
        return sandbox_runsc_connect(host, sandbox, out_fd, err);
    return initsock_connect(host->run_fd, sandbox->id, out_fd, err);
}

/* The kernel counts what is shared by all of a user's namespaces (inotify instances, namespaces,
 * keys, ...) for the effective user that made the outermost one: made by the first id of its own
 * range, a sandbox counts for itself, and can't use up what the host's root has. */
static pid_t clone_as(uid_t owner, struct clone_args *args)
{
    struct asuser saved;
    if (asuser_begin(&saved, owner) != 0)
        return -1;
    pid_t pid = (pid_t)syscall(SYS_clone3, args, sizeof(*args));
    if (pid != 0)
        asuser_end(&saved);
    return pid;
}

/* Forks the setup stage into its namespaces. */
static int start_stage(struct sandbox *sandbox, const struct setup *setup, struct err *err)
{
    struct clone_args args;
    memset(&args, 0, sizeof(args));
    args.flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                 CLONE_NEWUTS | CLONE_PIDFD;
    int pidfd = -1;
    args.pidfd = (uintptr_t)&pidfd;
    args.exit_signal = SIGCHLD;
    if (setup->entry->clone_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (unsigned)setup->entry->clone_fd;
    }
    pid_t pid = clone_as(sandbox->ids.base, &args);
    if (pid < 0)
        return err_sys(err, errno, "clone into new namespaces");
    if (pid == 0)
        setup_run(setup);
    sandbox->pid = pid;
    sandbox->pidfd = pidfd;
    sandbox->child = true;
    return 0;
}

static bool is_container(const struct sandbox *sandbox)
{
    return strcmp(sandbox->spec.profile, "container") == 0;
}

static void fill_root(struct sandbox_host *host, const struct sandbox *sandbox,
                      struct rootfs_spec *out)
{
    *out = (struct rootfs_spec){
        .host = &host->image,
        .sysview = &host->sysview,
        .cgroups = &host->cgroups,
        .id = sandbox->id,
        .stage_fd = host->stage_fd,
        .folder_fd = sandbox->folder.root_fd,
        .disk_fd = sandbox->disk_fd,
        .on_disk = sandbox->spec.disk,
        .userns_fd = sandbox->userns_fd,
        .first_id = sandbox->ids.base + 1,
        .container = is_container(sandbox),
        .storage_bytes = sandbox->spec.storage_bytes,
        .cpu_millis = sandbox->spec.cpu_millis,
        .gpus = &host->gpus,
        .gpu_set = &sandbox->gpus,
    };
}

static int start(struct sandbox_host *host, struct sandbox *sandbox,
                 const struct engine_create *spec, struct init_config *config, struct err *err)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return err_sys(err, errno, "setup socket");
    sandbox->setup_fd = pair[0];
    FD_AUTO int stage_fd = pair[1];
    config->setup_fd = stage_fd;
    struct cgroup_entry entry;
    int result = cgroup_open_entry(&host->cgroups, sandbox->id, &entry, err);
    if (result != 0)
        return result;
    struct rootfs_spec root;
    struct idrange_maps maps;
    struct setup_runsc runsc;
    fill_root(host, sandbox, &root);
    idrange_describe(&host->ids, sandbox->ids.base, &maps);
    if (sandbox->runsc)
        result = sandbox_runsc_prepare(host, sandbox, config, &runsc, err);
    const struct setup setup = {.entry = &entry,
                                .image = &host->image,
                                .config = config,
                                .socket_fd = stage_fd,
                                .init_fd = host->init_fd,
                                .id_lock_fd = sandbox->ids.lock_fd,
                                .image_lock_fd = sandbox->folder.lock_fd,
                                .gpu_lock_fds = sandbox->gpus.lock_fds,
                                .gpu_count = sandbox->gpus.count,
                                .maps = &maps,
                                .own_root = rootfs_is_plain(&root),
                                .storage_bytes = spec->storage_bytes,
                                .runsc = sandbox->runsc ? &runsc : NULL};
    if (result == 0)
        result = start_stage(sandbox, &setup, err);
    cgroup_close_entry(&entry);
    if (sandbox->runsc)
        sandbox_runsc_done(&runsc);
    if (result == 0)
        result = idrange_write_maps(sandbox->pid, maps.outer, err);
    if (result == 0)
        result = fd_send(sandbox->setup_fd, "G", 1, NULL, 0, 0, err);
    if (result == 0)
        result = fd_set_nonblocking(sandbox->setup_fd, true, err);
    config->setup_fd = -1;
    return result;
}

/* Past it a program is killed (SIGXFSZ): on a disk, which holds a little more than was asked for,
 * it has to run out of space before. */
uint64_t sandbox_file_size_max(const struct engine_create *spec)
{
    return spec->disk ? disk_image_bytes(spec->storage_bytes, true)
                      : spec->storage_bytes + SANDBOX_FILE_SIZE_SPARE;
}

static void fill_config(const struct sandbox *sandbox, const struct engine_create *spec,
                        struct init_config *config)
{
    init_config_clear(config);
    memcpy(config->id, sandbox->id, sizeof(config->id));
    memcpy(config->nonce, sandbox->nonce, sizeof(config->nonce));
    config->profile = is_container(sandbox) ? INIT_PROFILE_CONTAINER : INIT_PROFILE_STRICT;
    config->uid = config->gid = is_container(sandbox) ? 0 : SANDBOX_CODE_ID;
    (void)snprintf(config->fault, sizeof(config->fault), "%s", fault_text_for("init."));
    config->open_files_max = spec->open_files_max;
    config->file_size_max = sandbox_file_size_max(spec);
    config->lifetime_ms = spec->lifetime_ms;
    config->orphan_ms = spec->orphan_ms;
}

/* Ends what a failed beginning left, waiting for the one process: it is about to die. */
static void abandon(struct sandbox_host *host, struct sandbox *sandbox)
{
    if (sandbox->pid > 0) {
        (void)kill(sandbox->pid, SIGKILL);
        (void)waitpid(sandbox->pid, NULL, 0);
    }
    bool made_disk = sandbox->disk_job.pid > 0 && sandbox->create_op == ENGINE_OP_CREATE;
    disk_abort(&sandbox->disk_job);
    if (made_disk) /* else there may be one that is not ours */
        (void)disk_remove(&host->disks, sandbox->id, NULL);
    initsock_remove(host->run_fd, sandbox->id);
    initstream_remove(host->run_fd, sandbox->id);
    (void)cgroup_remove(&host->cgroups, sandbox->id, NULL);
    sandbox_free(sandbox);
}

struct cgroup_limits sandbox_group_limits(const struct sandbox *sandbox,
                                          const struct engine_create *spec)
{
    if (sandbox->runsc)
        return runsc_limits(spec);
    return (struct cgroup_limits){.memory_bytes = spec->memory_bytes,
                                  .cpu_millis = spec->cpu_millis,
                                  .pids_max = spec->pids_max};
}

/* The groups come before every other trace: they are the journal that a sweep reads. */
static int begin_steps(struct sandbox_host *host, struct sandbox *sandbox,
                       struct init_config *config, struct err *err)
{
    const struct engine_create *spec = &sandbox->spec;
    const struct cgroup_limits limits = sandbox_group_limits(sandbox, spec);
    int result = cgroup_create(&host->cgroups, spec->id, &limits, sandbox->ids.base, config, err);
    if (result != 0)
        return result;
    fault_point("native.groups");
    result = begin_disk(host, sandbox, err);
    if (result == -ERR_CONFLICT) /* the disk is theirs, the groups are ours */
        (void)cgroup_remove(&host->cgroups, spec->id, NULL);
    /* A socket without groups is what a host that went down left. */
    if (result == 0 && host->cgroups.count > 0) {
        initsock_remove(host->run_fd, spec->id);
        initstream_remove(host->run_fd, spec->id);
    }
    if (result == 0 && !sandbox->runsc)
        result = initsock_bind(host->run_fd, spec->id, &config->listen_fd, err);
    if (result == 0)
        result = start(host, sandbox, spec, config, err);
    fault_point("native.stage");
    return result;
}

int sandbox_begin(struct sandbox_host *host, uint32_t op, const struct engine_create *spec,
                  struct sandbox **out, struct err *err)
{
    int result = check_spec(spec, err);
    if (result == 0)
        result = check_host(host, op, spec, err);
    if (result != 0)
        return result;
    struct sandbox *sandbox = sandbox_new(spec->id);
    if (!sandbox)
        return err_set(err, ERR_INTERNAL, "no memory for a sandbox");
    struct init_config config;
    sandbox->spec = *spec;
    sandbox->create_op = op;
    sandbox->runsc = strcmp(spec->runtime, RUNSC_NAME) == 0;
    sandbox->keeps = spec->keep_files || op == ENGINE_OP_START;
    sandbox->forget = op == ENGINE_OP_CREATE; /* until it is committed */
    id_random(sandbox->nonce, sizeof(sandbox->nonce));
    fill_config(sandbox, spec, &config);
    result = take_image(host, sandbox, err);
    if (result == 0 && spec->gpu_count > 0)
        result = gpus_take(&host->gpus, spec->gpu_count, &sandbox->gpus, err);
    if (result == 0)
        result = idrange_take(host->ids_fd, &host->ids, &sandbox->ids, err);
    if (result != 0) {
        sandbox_free(sandbox);
        return result;
    }
    result = begin_steps(host, sandbox, &config, err);
    cgroup_close_config(&config);
    fd_close(&config.listen_fd);
    if (result == -ERR_CONFLICT) { /* groups or a disk of a sandbox that we do not know: theirs */
        sandbox_free(sandbox);
        return result;
    }
    if (result != 0) {
        abandon(host, sandbox);
        return result;
    }
    sandbox->deadline_ns =
        clock_now_ns() + (op == ENGINE_OP_START ? START_TIMEOUT_NS : CREATE_TIMEOUT_NS);
    *out = sandbox;
    return 0;
}

/* Sends the mounts from first on, as many as one message holds. Returns their number. */
static int send_mounts(const struct sandbox *sandbox, const struct rootfs *rootfs, size_t first,
                       struct err *err)
{
    char text[1 + FD_PASS_MAX * ROOTFS_TARGET_SIZE];
    int fds[FD_PASS_MAX];
    size_t used = 1;
    size_t count = 0;
    for (; first + count < rootfs->count && count < FD_PASS_MAX; count++) {
        const struct rootfs_mount *mount = &rootfs->mounts[first + count];
        size_t size = strlen(mount->target) + 1;
        memcpy(text + used, mount->target, size);
        used += size;
        fds[count] = mount->fd;
    }
    text[0] = first + count < rootfs->count ? 'N' : 'M';
    int result = fd_send(sandbox->setup_fd, text, used, fds, count, 0, err);
    return result == 0 ? (int)count : result;
}

/* Makes the root for the namespace that came and sends its mounts. */
static int send_root(struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    struct rootfs_spec spec;
    struct rootfs rootfs;
    fill_root(host, sandbox, &spec);
    int result = rootfs_build(&spec, &rootfs, err);
    close_root_parts(host, sandbox);
    sandbox->root_sent = true;
    if (result != 0)
        return result;
    size_t sent = 0;
    do {
        result = send_mounts(sandbox, &rootfs, sent, err);
        sent += result > 0 ? (size_t)result : 0;
    } while (result > 0 && sent < rootfs.count);
    rootfs_close(&rootfs);
    return result < 0 ? result : 0;
}

/* Takes the disk when it is ready. Its descriptor is closed with the job: it has to be unwatched
 * before (see sandbox_unwatch()). */
static int take_disk(struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    if (sandbox->disk_job.fd < 0)
        return 0;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = sandbox};
    (void)epoll_ctl(host->epoll_fd, EPOLL_CTL_DEL, sandbox->disk_job.fd, NULL);
    int result = disk_finish(&sandbox->disk_job, &sandbox->disk_fd, err);
    if (result != -ERR_UNAVAILABLE)
        return result;
    if (epoll_ctl(host->epoll_fd, EPOLL_CTL_ADD, sandbox->disk_job.fd, &event) != 0)
        return err_sys(err, errno, "watch the disk");
    return 0;
}

/* One message of the stage or of init. Returns as sandbox_setup_event(). */
static int take_message(struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    char text[257];
    int fds[1] = {-1};
    size_t fd_count = 1;
    ssize_t size =
        fd_recv(sandbox->setup_fd, text, sizeof(text) - 1, fds, &fd_count, MSG_DONTWAIT, err);
    FD_AUTO int userns_fd = fd_count == 1 && size > 0 ? fds[0] : -1;
    if (size == -ERR_UNAVAILABLE)
        return 0;
    if (size <= 0)
        return err_set(err, ERR_INTERNAL, "sandbox %s died while it was made", sandbox->id);
    if (size == 1 && text[0] == 'U' && userns_fd >= 0 && sandbox->userns_fd < 0 &&
        !sandbox->root_sent) {
        sandbox->userns_fd = fd_take(&userns_fd);
        return 0;
    }
    if (size == 1 && text[0] == 'R' && sandbox->root_sent && sandbox->kernel_request == 0) {
        fault_point("native.ready");
        if (sandbox->runsc)
            return sandbox_runsc_started(host, sandbox, err);
        if (sandbox_ask_kernel(host, sandbox))
            return 0;
        int result = sandbox_commit(host, sandbox, false, err);
        return result == 0 ? 1 : result;
    }
    text[size] = '\0';
    return err_set(err, ERR_INTERNAL, "sandbox %s: %s", sandbox->id, text);
}

int sandbox_setup_event(struct sandbox_host *host, struct sandbox *sandbox, struct err *err)
{
    int result = take_disk(host, sandbox, err);
    if (result == 0)
        result = take_message(host, sandbox, err);
    bool disk_ready = !sandbox->spec.disk || sandbox->disk_fd >= 0;
    if (result == 0 && sandbox->userns_fd >= 0 && disk_ready) {
        fault_point("native.root");
        result = send_root(host, sandbox, err);
    }
    if (result == 0 && sandbox->stream) {
        result = sandbox_runsc_poll(sandbox, err);
        bool is_up = result > 0;
        if (is_up)
            result = sandbox_commit(host, sandbox, false, err);
        result = is_up && result == 0 ? 1 : result;
    }
    return result;
}

/* ERR_UNAVAILABLE: it has to be looked at again. Only a group without a process is a dead one's. */
static int find_by_group(const struct sandbox_host *host, struct sandbox *sandbox)
{
    struct err err = ERR_INIT;
    pid_t pid = 0;
    pid_t again = 0;
    int result = cgroup_init_pid(&host->cgroups, sandbox->id, &pid, &err);
    if (result == 0 && pid == 0)
        return 0;
    FD_AUTO int pidfd = result == 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (result == 0 && pidfd < 0)
        result = err_sys(&err, errno, "open the init");
    /* The process may have ended, and its number gone to another, between the two: ask again. */
    if (result == 0)
        result = cgroup_init_pid(&host->cgroups, sandbox->id, &again, &err);
    if (result == 0 && again != pid)
        result = err_set(&err, ERR_CONFLICT, "its init has just ended");
    if (result != 0) {
        log_debug("sandbox %s can't be looked at now: %s", sandbox->id, err.message);
        return -ERR_UNAVAILABLE;
    }
    sandbox->pid = pid;
    sandbox->pidfd = fd_take(&pidfd);
    return 0;
}

static int find_by_socket(const struct sandbox_host *host, struct sandbox *sandbox)
{
    struct err err = ERR_INIT;
    struct initsock_peer peer;
    int result = initsock_find(host->run_fd, sandbox->id, &peer, &err);
    if (result != 0) {
        log_debug("%s", err.message);
        return result == -ERR_NOT_FOUND ? 0 : -ERR_UNAVAILABLE;
    }
    sandbox->pid = peer.pid;
    sandbox->pidfd = peer.pidfd;
    sandbox->uid = peer.uid;
    return 0;
}

struct sandbox *sandbox_adopt(struct sandbox_host *host, const char *id)
{
    struct sandbox *sandbox = sandbox_new(id);
    if (!sandbox)
        return NULL;
    sandbox->state = ENGINE_STATE_RUNNING;
    sandbox->runsc = initstream_exists(host->run_fd, id);
    int result =
        host->cgroups.count > 0 ? find_by_group(host, sandbox) : find_by_socket(host, sandbox);
    if (result == -ERR_UNAVAILABLE) {
        sandbox_free(sandbox);
        return NULL;
    }
    sandbox->keeps = host->disks.dir_fd >= 0 && disk_is_kept(&host->disks, id);
    if (sandbox->pid == 0) {
        cgroup_kill(&host->cgroups, id);
        sandbox->state = ENGINE_STATE_DESTROYING;
        sandbox->deadline_ns = 0;
    }
    return sandbox;
}

struct sandbox *sandbox_adopt_stopped(const char *id)
{
    struct sandbox *sandbox = sandbox_new(id);
    if (!sandbox)
        return NULL;
    sandbox->keeps = true;
    sandbox->state = ENGINE_STATE_STOPPED;
    return sandbox;
}

/* An earlier engine of an ordinary user made it below a user namespace of its own, over which ours
 * has no right: its init is killed by whoever has init's id (kill(2)). */
static int kill_as_init(const struct sandbox *sandbox)
{
    struct asuser saved;
    if (asuser_begin(&saved, sandbox->uid) != 0)
        return -1;
    int result = (int)syscall(SYS_pidfd_send_signal, sandbox->pidfd, SIGKILL, NULL, 0);
    asuser_end(&saved);
    return result;
}

/* What was refused is repeated for as long as the init is there (sandbox_cleanup()): becoming
 * another user may fail for a while, and without groups nothing else would end it. */
static void kill_init(struct sandbox *sandbox)
{
    bool said = sandbox->kill_refused;
    int result = (int)syscall(SYS_pidfd_send_signal, sandbox->pidfd, SIGKILL, NULL, 0);
    if (result != 0 && errno == EPERM)
        result = kill_as_init(sandbox);
    sandbox->kill_refused = result != 0 && errno != ESRCH;
    if (sandbox->kill_refused && !said)
        log_warn("sandbox %s: kill its init: %s", sandbox->id, strerror(errno));
}

void sandbox_kill(struct sandbox_host *host, struct sandbox *sandbox)
{
    sandbox->state = ENGINE_STATE_DESTROYING;
    sandbox->deadline_ns = 0;
    sandbox_unwatch(host, &sandbox->setup_fd);
    disk_cancel(&sandbox->disk_job);
    close_root_parts(NULL, sandbox);
    fd_close(&sandbox->kernel_userns_fd);
    fd_close(&sandbox->kernel_fd); /* a kernel that was forked meanwhile ends with it */
    fd_close(&sandbox->kernel_pass_fd);
    sandbox->kernel_request = 0;
    sandbox->kernel_give_up_ns = INT64_MAX;
    layer_attach_kill(&sandbox->attach);
    initstream_close(sandbox->stream);
    sandbox->stream = NULL;
    fault_point("native.kill");
    if (sandbox->pidfd >= 0)
        kill_init(sandbox);
    else
        cgroup_kill(&host->cgroups, sandbox->id);
    fault_point("native.killed");
}

static bool process_is_gone(const struct sandbox_host *host, struct sandbox *sandbox)
{
    if (sandbox->pid == 0)
        return true;
    struct pollfd poller = {.fd = sandbox->pidfd, .events = POLLIN};
    if (poll(&poller, 1, 0) <= 0)
        return false;
    if (sandbox->child) {
        siginfo_t info;
        memset(&info, 0, sizeof(info));
        (void)waitid(P_PID, (id_t)sandbox->pid, &info, WEXITED | WNOHANG);
    }
    sandbox->pid = 0;
    sandbox_unwatch(host, &sandbox->pidfd);
    return true;
}

/* Whether the child that made the disk is gone, and what it may have sent is closed. */
static bool disk_job_is_over(struct sandbox_host *host, struct sandbox *sandbox)
{
    struct err err = ERR_INIT;
    (void)take_disk(host, sandbox, &err);
    fd_close(&sandbox->disk_fd);
    return sandbox->disk_job.fd < 0;
}

/* Everything but the groups, which are the journal and go last. */
static void remove_traces(struct sandbox_host *host, struct sandbox *sandbox)
{
    struct err err = ERR_INIT;
    int result = 0;
    /* Without DESTROY a kept disk stays, also one that we took for none. */
    if (host->disks.dir_fd >= 0)
        result = sandbox->forget ? disk_remove(&host->disks, sandbox->id, &err)
                                 : disk_remove_unkept(&host->disks, sandbox->id, &err);
    if (result != 0)
        log_warn("disk of %s: %s", sandbox->id, err.message);
    fault_point("native.disk");
    initsock_remove(host->run_fd, sandbox->id);
    initstream_remove(host->run_fd, sandbox->id);
}

/* It goes with the sandbox's network namespace too, but later, and another one may have the number
 * by then. */
static void remove_network(struct sandbox_host *host, struct sandbox *sandbox)
{
    struct err err = ERR_INIT;
    if (!sandbox->has_network)
        return;
    if (network_take(&host->networks, sandbox->network_index, &err) != 0)
        log_warn("network of %s: %s", sandbox->id, err.message);
    sandbox->has_network = false;
}

bool sandbox_cleanup(struct sandbox_host *host, struct sandbox *sandbox)
{
    bool gone = process_is_gone(host, sandbox) && disk_job_is_over(host, sandbox) &&
                sandbox->attach.pid == 0; /* no child of ours is in its mount namespace */
    if (gone) {
        fd_close(&sandbox->layer_lock_fd);
        remove_network(host, sandbox);
        remove_traces(host, sandbox);
        if (cgroup_remove(&host->cgroups, sandbox->id, NULL) == 0) {
            fault_point("native.gone");
            idrange_release(&sandbox->ids);
            if (sandbox->keeps && !sandbox->forget) {
                sandbox->state = ENGINE_STATE_STOPPED;
                sandbox->deadline_ns = INT64_MAX;
            }
            return true;
        }
        cgroup_kill(&host->cgroups, sandbox->id);
    }
    if (!gone && sandbox->pidfd >= 0 && sandbox->kill_refused)
        kill_init(sandbox);
    /* The descriptor of the init wakes us when it ends, where it could be watched; cgroups have
     * nothing to wait on. */
    bool wait_long = sandbox->pid != 0 && sandbox->disk_job.fd < 0;
    sandbox->deadline_ns = clock_now_ns() + (wait_long ? CLOCK_NS_PER_S : CLEANUP_RETRY_NS);
    return false;
}
