/* Owns the fake engine: the table of its sandboxes, the faults to inject, and one thread that
 * destroys and calls the events. For tests; isolates nothing. */
#include "engine/fake.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "engine/fake_info.h"
#include "engine/fake_layers.h"
#include "engine/fake_sandbox.h"

static const char *const fault_names[FAKE_FAULT_COUNT] = {
    "none",           "create-fails",  "create-hangs", "create-refused", "unpacking",
    "restart",        "destroy-fails", "destroy-lost", "limit-refused",  "limit-hangs",
    "limit-away",     "layer-refused", "layer-fails",  "layer-away",     "channel-away",
    "close-early",    "close-output",  "close-exit",   "dies",           "garbage",
    "oversized",      "wrong-nonce",   "wrong-exit",   "wrong-stream",   "no-credit",
    "mute",           "silent",        "kernel-fails", "kernel-dies",    "attach-unknown",
    "dies-of-memory", "put-refused",   "timers-dies",
};

const char *engine_fake_fault_name(enum engine_fake_fault fault)
{
    return fault < FAKE_FAULT_COUNT ? fault_names[fault] : NULL;
}

enum task_kind { TASK_CONNECTED, TASK_DESTROY, TASK_GONE };

struct task {
    enum task_kind kind;
    char id[SANDBOX_ID_MAX + 1];
    enum kill_cause cause; /* TASK_GONE */
    struct task *next;
};

struct entry {
    char id[SANDBOX_ID_MAX + 1];
    struct fake_sandbox *sandbox;
    struct engine_create spec; /* what it was made or started with, and its limits now */
    bool stopped;              /* only the files are left */
    char layer[ENGINE_LAYER_NAME_MAX + 1]; /* that it has; "" none */
    bool full;                             /* it has that network */
    struct entry *next;
};

struct fake {
    struct engine base;
    struct engine_events events;
    pthread_t thread;
    /* Rank 1, below every lock of core. Guards all that follows. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;
    struct task *tasks, **tasks_tail;
    struct entry *entries;
    struct engine_info info;
    struct engine_create last_create;
    struct fake_layers layers;
    enum engine_fake_fault fault;
    unsigned fault_count;
};

static struct fake *fake_of(struct engine *engine)
{
    return (struct fake *)engine;
}

static void add_task_of(struct fake *fake, enum task_kind kind, const char *id,
                        enum kill_cause cause)
{
    struct task *task = calloc(1, sizeof(*task));
    if (!task)
        abort();
    task->kind = kind;
    task->cause = cause;
    (void)snprintf(task->id, sizeof(task->id), "%s", id);
    (void)pthread_mutex_lock(&fake->lock);
    *fake->tasks_tail = task;
    fake->tasks_tail = &task->next;
    (void)pthread_cond_broadcast(&fake->changed);
    (void)pthread_mutex_unlock(&fake->lock);
}

static void add_task(struct fake *fake, enum task_kind kind, const char *id)
{
    add_task_of(fake, kind, id, KILL_NONE);
}

/* Takes the injected fault when it is within [low, high]. */
static enum engine_fake_fault take_fault(struct fake *fake, enum engine_fake_fault low,
                                         enum engine_fake_fault high)
{
    enum engine_fake_fault fault = FAKE_FAULT_NONE;
    (void)pthread_mutex_lock(&fake->lock);
    if (fake->fault_count > 0 && fake->fault >= low && fake->fault <= high) {
        fake->fault_count--;
        fault = fake->fault;
    }
    (void)pthread_mutex_unlock(&fake->lock);
    return fault;
}

static struct entry *find_locked(struct fake *fake, const char *id)
{
    struct entry *entry = fake->entries;
    while (entry && strcmp(entry->id, id) != 0)
        entry = entry->next;
    return entry;
}

static void on_died(void *context, const char *id, enum kill_cause cause)
{
    struct fake *fake = context;
    (void)pthread_mutex_lock(&fake->lock);
    struct entry *entry = find_locked(fake, id);
    if (entry)
        entry->stopped = entry->spec.keep_files;
    (void)pthread_mutex_unlock(&fake->lock);
    add_task_of(fake, TASK_GONE, id, cause);
}

static int fake_probe(struct engine *engine, int64_t deadline_ns, struct engine_info *out,
                      struct err *err)
{
    (void)deadline_ns;
    (void)err;
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    *out = fake->info;
    (void)pthread_mutex_unlock(&fake->lock);
    return 0;
}

/* What a real engine checks too. Remembers the spec. */
static int check_spec(struct fake *fake, const struct engine_create *spec, struct err *err)
{
    struct engine_info info;
    (void)fake_probe(&fake->base, 0, &info, NULL);
    (void)pthread_mutex_lock(&fake->lock);
    fake->last_create = *spec;
    (void)pthread_mutex_unlock(&fake->lock);
    if (!fake_has_word(info.images, spec->image[0] != '\0' ? spec->image : "host"))
        return err_public(err, ERR_BAD_INPUT, "image: there is no \"%s\"", spec->image);
    bool known = spec->runtime[0] == '\0';
    for (size_t i = 0; i < info.runtime_count && !known; i++) {
        known = strcmp(info.runtimes[i].name, spec->runtime) == 0;
        if (known)
            info.capabilities = info.runtimes[i].capabilities;
    }
    if (!known)
        return err_public(err, ERR_BAD_INPUT, "runtime: there is no \"%s\"", spec->runtime);
    if (strcmp(spec->profile, "container") == 0 && (info.capabilities & ENGINE_CAP_CONTAINER) == 0)
        return err_set(err, ERR_UNSUPPORTED, "no profile \"container\" here");
    if (spec->disk && (info.capabilities & ENGINE_CAP_DISK) == 0)
        return err_set(err, ERR_UNSUPPORTED, "no writable roots on disk here");
    if (spec->keep_files && !spec->disk)
        return err_set(err, ERR_BAD_INPUT, "files are kept on disk only");
    return 0;
}

static int make(struct fake *fake, const struct engine_create *spec, enum engine_fake_fault fault,
                int *out_fd, uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    (void)pthread_mutex_lock(&fake->lock);
    bool exists = find_locked(fake, spec->id) != NULL;
    (void)pthread_mutex_unlock(&fake->lock);
    if (exists)
        return err_set(err, ERR_CONFLICT, "sandbox %s exists already", spec->id);
    MEM_AUTO struct entry *entry = calloc(1, sizeof(*entry));
    if (!entry)
        return err_set(err, ERR_INTERNAL, "no memory for a sandbox");
    (void)snprintf(entry->id, sizeof(entry->id), "%s", spec->id);
    entry->spec = *spec;
    const struct fake_spec parts = {.id = spec->id,
                                    .fault = fault,
                                    .lifetime_ms = spec->lifetime_ms,
                                    .orphan_ms = spec->orphan_ms,
                                    .died = on_died,
                                    .context = fake};
    int result = fake_sandbox_new(&parts, &entry->sandbox, out_fd, out_nonce, err);
    if (result != 0)
        return result;
    (void)pthread_mutex_lock(&fake->lock);
    entry->next = fake->entries;
    fake->entries = take(entry);
    (void)pthread_mutex_unlock(&fake->lock);
    return 0;
}

/* Sleeps as an engine that hangs looks from here. */
static int hang(const struct engine_wait *wait, struct err *err)
{
    while (clock_now_ns() < wait->deadline_ns) {
        if (engine_wait_is_over(wait, clock_poll_timeout_ms(wait->deadline_ns)))
            return err_set(err, ERR_CLOSED, "cancelled while the engine hung");
    }
    return engine_set_away(err, "did not answer in time");
}

static int strike(struct fake *fake, enum engine_fake_fault fault, struct err *err)
{
    switch (fault) {
    case FAKE_FAULT_CREATE_FAILS:
        return err_set(err, ERR_INTERNAL, "injected: create failed");
    case FAKE_FAULT_CREATE_REFUSED:
        return err_public(err, ERR_BAD_INPUT, "resources.pids: injected: the engine takes less");
    case FAKE_FAULT_UNPACKING:
        (void)err_public(err, ERR_UNAVAILABLE, "the image is being unpacked; try again");
        if (err)
            err->retry_after_s = 7;
        return -ERR_UNAVAILABLE;
    case FAKE_FAULT_RESTART:
        add_task(fake, TASK_CONNECTED, "");
        return engine_set_away(err, "was restarted");
    default:
        return 0;
    }
}

static int fake_create(struct engine *engine, const struct engine_create *spec,
                       const struct engine_wait *wait, int *out_channel_fd,
                       uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    struct fake *fake = fake_of(engine);
    enum engine_fake_fault fault = take_fault(fake, FAKE_FAULT_CREATE_FAILS, FAKE_FAULT_RESTART);
    int result = check_spec(fake, spec, err);
    if (result == 0)
        result = strike(fake, fault, err);
    if (result != 0)
        return result;
    if (fault == FAKE_FAULT_CREATE_HANGS) {
        FD_AUTO int late_fd = -1;
        result = hang(wait, err);
        (void)make(fake, spec, FAKE_FAULT_NONE, &late_fd, out_nonce, NULL);
        return result;
    }
    fault = take_fault(fake, FAKE_FAULT_CLOSE_EARLY, FAKE_FAULT_COUNT - 1);
    return make(fake, spec, fault, out_channel_fd, out_nonce, err);
}

/* Starts and stops are for one thread at a time here: the caller's, which owns the sandbox. */
static int fake_start(struct engine *engine, const struct engine_create *spec, int64_t deadline_ns,
                      int *out_channel_fd, uint8_t out_nonce[static SANDBOX_NONCE_SIZE],
                      struct err *err)
{
    (void)deadline_ns;
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    struct entry *entry = find_locked(fake, spec->id);
    bool stopped = entry && entry->stopped;
    (void)pthread_mutex_unlock(&fake->lock);
    if (!entry)
        return err_set(err, ERR_NOT_FOUND, "sandbox %s left no files", spec->id);
    if (!stopped)
        return err_set(err, ERR_CONFLICT, "sandbox %s lives", spec->id);
    fake_sandbox_end(entry->sandbox); /* it may have died by itself */
    const struct fake_spec parts = {
        .id = spec->id,
        .left = entry->sandbox,
        .fault = take_fault(fake, FAKE_FAULT_CLOSE_EARLY, FAKE_FAULT_COUNT - 1),
        .lifetime_ms = spec->lifetime_ms,
        .orphan_ms = spec->orphan_ms,
        .died = on_died,
        .context = fake};
    struct fake_sandbox *sandbox = NULL;
    int result = fake_sandbox_new(&parts, &sandbox, out_channel_fd, out_nonce, err);
    if (result != 0)
        return result;
    fake_sandbox_free(entry->sandbox);
    (void)pthread_mutex_lock(&fake->lock);
    entry->sandbox = sandbox;
    entry->spec = *spec;
    entry->stopped = false;
    entry->layer[0] = '\0';
    (void)pthread_mutex_unlock(&fake->lock);
    return 0;
}

static int fake_stop(struct engine *engine, const char *id, int64_t deadline_ns, struct err *err)
{
    (void)deadline_ns;
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    struct entry *entry = find_locked(fake, id);
    bool keeps = entry && entry->spec.keep_files;
    if (keeps)
        entry->stopped = true;
    (void)pthread_mutex_unlock(&fake->lock);
    if (!entry)
        return err_set(err, ERR_NOT_FOUND, "no sandbox %s", id);
    if (!keeps)
        return err_set(err, ERR_CONFLICT, "sandbox %s keeps no files", id);
    fake_sandbox_end(entry->sandbox);
    return 0;
}

static int fake_destroy(struct engine *engine, const char *id, int64_t deadline_ns, struct err *err)
{
    (void)deadline_ns;
    struct fake *fake = fake_of(engine);
    if (take_fault(fake, FAKE_FAULT_DESTROY_FAILS, FAKE_FAULT_DESTROY_FAILS) != FAKE_FAULT_NONE)
        return err_set(err, ERR_INTERNAL, "injected: destroy failed");
    struct entry *found = NULL;
    (void)pthread_mutex_lock(&fake->lock);
    for (struct entry **at = &fake->entries; *at; at = &(*at)->next) {
        if (strcmp((*at)->id, id) == 0) {
            found = *at;
            *at = found->next;
            break;
        }
    }
    (void)pthread_mutex_unlock(&fake->lock);
    if (found)
        fake_sandbox_free(found->sandbox);
    free(found);
    return 0;
}

static void fake_destroy_later(struct engine *engine, const char *id)
{
    struct fake *fake = fake_of(engine);
    bool lost =
        take_fault(fake, FAKE_FAULT_DESTROY_LOST, FAKE_FAULT_DESTROY_LOST) != FAKE_FAULT_NONE;
    add_task(fake, lost ? TASK_CONNECTED : TASK_DESTROY, lost ? "" : id);
}

/* Sets what is not 0, as a real engine does. ERR_CONFLICT: it can't have these. */
static int set_limits_locked(struct entry *entry, const struct engine_create *spec, struct err *err)
{
    struct engine_create *now = &entry->spec;
    if (entry->stopped)
        return err_set(err, ERR_CONFLICT, "sandbox %s does not run", spec->id);
    if (now->disk && spec->storage_bytes != 0 && spec->storage_bytes != now->storage_bytes)
        return err_set(err, ERR_CONFLICT, "the root of sandbox %s is on disk", spec->id);
    now->memory_bytes = spec->memory_bytes != 0 ? spec->memory_bytes : now->memory_bytes;
    now->storage_bytes = spec->storage_bytes != 0 ? spec->storage_bytes : now->storage_bytes;
    now->cpu_millis = spec->cpu_millis != 0 ? spec->cpu_millis : now->cpu_millis;
    now->pids_max = spec->pids_max != 0 ? spec->pids_max : now->pids_max;
    return 0;
}

static int fake_limit(struct engine *engine, const struct engine_create *spec, int64_t deadline_ns,
                      struct err *err)
{
    const struct engine_wait wait = {.deadline_ns = deadline_ns, .cancel_fd = -1, .gone_fd = -1};
    struct fake *fake = fake_of(engine);
    enum engine_fake_fault fault =
        take_fault(fake, FAKE_FAULT_LIMIT_REFUSED, FAKE_FAULT_LIMIT_AWAY);
    struct err late = ERR_INIT;
    int result = 0;
    if (fault == FAKE_FAULT_LIMIT_REFUSED)
        return err_set(err, ERR_CONFLICT, "injected: it uses more already");
    if (fault == FAKE_FAULT_LIMIT_AWAY)
        return engine_set_away(err, "was restarted");
    if (fault == FAKE_FAULT_LIMIT_HANGS)
        result = hang(&wait, &late);
    (void)pthread_mutex_lock(&fake->lock);
    struct entry *entry = find_locked(fake, spec->id);
    int outcome = 0;
    if ((fake->info.capabilities & ENGINE_CAP_LIMIT) == 0)
        outcome = err_set(err, ERR_UNSUPPORTED, "limits can't be changed here");
    else if (!entry)
        outcome = err_set(err, ERR_NOT_FOUND, "no sandbox %s", spec->id);
    else
        outcome = set_limits_locked(entry, spec, err);
    (void)pthread_mutex_unlock(&fake->lock);
    return result != 0 ? err_copy(err, &late) : outcome;
}

/* What a host without layers says, and the fault that is set. */
static int begin_layers(struct fake *fake, struct err *err)
{
    struct engine_info info;
    (void)fake_probe(&fake->base, 0, &info, NULL);
    if ((info.capabilities & ENGINE_CAP_LAYERS) == 0)
        return err_set(err, ERR_UNSUPPORTED, "there are no library layers here");
    switch (take_fault(fake, FAKE_FAULT_LAYER_REFUSED, FAKE_FAULT_LAYER_AWAY)) {
    case FAKE_FAULT_LAYER_REFUSED:
        return err_public(err, ERR_BAD_INPUT, "entry 1 (x): injected");
    case FAKE_FAULT_LAYER_FAILS:
        return err_set(err, ERR_INTERNAL, "injected: layer failed");
    case FAKE_FAULT_LAYER_AWAY:
        return engine_set_away(err, "was restarted");
    default:
        return 0;
    }
}

static int fake_layer_import(struct engine *engine, const struct engine_layer_import *import,
                             int64_t deadline_ns, uint64_t *out_size_bytes, struct err *err)
{
    (void)deadline_ns;
    struct fake *fake = fake_of(engine);
    int result = begin_layers(fake, err);
    if (result != 0)
        return result;
    (void)pthread_mutex_lock(&fake->lock);
    result = fake_layers_add(&fake->layers, import, out_size_bytes, err);
    (void)pthread_mutex_unlock(&fake->lock);
    return result;
}

static int fake_layer_attach(struct engine *engine, const char *id, const char *name,
                             int64_t deadline_ns, struct err *err)
{
    (void)deadline_ns;
    struct fake *fake = fake_of(engine);
    int result = begin_layers(fake, err);
    if (result != 0)
        return result;
    (void)pthread_mutex_lock(&fake->lock);
    struct entry *entry = find_locked(fake, id);
    if (!entry || entry->stopped)
        result = err_set(err, ERR_CONFLICT, "no sandbox %s runs", id);
    else if (!fake_layers_have(&fake->layers, name))
        result = err_set(err, ERR_NOT_FOUND, "there is no layer %s", name);
    else
        (void)snprintf(entry->layer, sizeof(entry->layer), "%s", name);
    (void)pthread_mutex_unlock(&fake->lock);
    return result;
}

static int fake_layer_remove(struct engine *engine, const char *name, int64_t deadline_ns,
                             struct err *err)
{
    (void)deadline_ns;
    struct fake *fake = fake_of(engine);
    int result = begin_layers(fake, err);
    if (result != 0)
        return result;
    (void)pthread_mutex_lock(&fake->lock);
    fake_layers_remove(&fake->layers, name);
    (void)pthread_mutex_unlock(&fake->lock);
    return 0;
}

static int fake_layer_list(struct engine *engine, int64_t deadline_ns,
                           struct engine_layer **out_layers, size_t *out_count, struct err *err)
{
    (void)deadline_ns;
    struct fake *fake = fake_of(engine);
    int result = begin_layers(fake, err);
    if (result != 0)
        return result;
    (void)pthread_mutex_lock(&fake->lock);
    result = fake_layers_copy(&fake->layers, out_layers, out_count, err);
    (void)pthread_mutex_unlock(&fake->lock);
    return result;
}

static int fake_inspect(struct engine *engine, const char *id, int64_t deadline_ns,
                        enum engine_state *out, struct err *err)
{
    (void)deadline_ns;
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    const struct entry *entry = find_locked(fake, id);
    if (entry)
        *out = entry->stopped ? ENGINE_STATE_STOPPED : ENGINE_STATE_RUNNING;
    (void)pthread_mutex_unlock(&fake->lock);
    return entry ? 0 : err_set(err, ERR_NOT_FOUND, "no sandbox %s", id);
}

static int fake_list(struct engine *engine, int64_t deadline_ns,
                     char (**out_ids)[SANDBOX_ID_MAX + 1], size_t *out_count, struct err *err)
{
    (void)deadline_ns;
    struct fake *fake = fake_of(engine);
    int result = 0;
    (void)pthread_mutex_lock(&fake->lock);
    size_t count = 0;
    for (struct entry *entry = fake->entries; entry; entry = entry->next)
        count++;
    char(*ids)[SANDBOX_ID_MAX + 1] = calloc(count + 1, sizeof(*ids));
    if (ids) {
        size_t at = 0;
        for (struct entry *entry = fake->entries; entry; entry = entry->next)
            memcpy(ids[at++], entry->id, sizeof(entry->id));
        *out_ids = ids;
        *out_count = count;
    } else {
        result = err_set(err, ERR_INTERNAL, "no memory for a list");
    }
    (void)pthread_mutex_unlock(&fake->lock);
    return result;
}

static int fake_open_channel(struct engine *engine, const char *id, int64_t deadline_ns,
                             int *out_channel_fd, struct err *err)
{
    (void)deadline_ns;
    struct fake *fake = fake_of(engine);
    if (take_fault(fake, FAKE_FAULT_CHANNEL_AWAY, FAKE_FAULT_CHANNEL_AWAY) != FAKE_FAULT_NONE)
        return engine_set_away(err, "was restarted");
    enum engine_fake_fault fault = take_fault(fake, FAKE_FAULT_CLOSE_EARLY, FAKE_FAULT_COUNT - 1);
    /* With the lock: nobody frees the sandbox meanwhile. */
    (void)pthread_mutex_lock(&fake->lock);
    struct entry *entry = find_locked(fake, id);
    int result = entry && !entry->stopped
                     ? fake_sandbox_connect(entry->sandbox, fault, out_channel_fd, err)
                     : err_set(err, ERR_NOT_FOUND, "no sandbox %s lives", id);
    (void)pthread_mutex_unlock(&fake->lock);
    return result;
}

static void do_task(struct fake *fake, const struct task *task)
{
    const struct engine_events *events = &fake->events;
    if (task->kind == TASK_CONNECTED && events->connected)
        events->connected(events->context);
    if (task->kind == TASK_GONE && events->gone)
        events->gone(events->context, task->id, task->cause);
    if (task->kind != TASK_DESTROY)
        return;
    while (fake_destroy(&fake->base, task->id, INT64_MAX, NULL) != 0)
        ; /* an injected failure: repeated at once */
    if (events->destroyed)
        events->destroyed(events->context, task->id);
}

static void *worker_main(void *context)
{
    struct fake *fake = context;
    (void)pthread_mutex_lock(&fake->lock);
    while (!fake->stop || fake->tasks) {
        struct task *task = fake->tasks;
        if (!task) {
            (void)pthread_cond_wait(&fake->changed, &fake->lock);
            continue;
        }
        fake->tasks = task->next;
        if (!fake->tasks)
            fake->tasks_tail = &fake->tasks;
        (void)pthread_mutex_unlock(&fake->lock);
        do_task(fake, task);
        free(task);
        (void)pthread_mutex_lock(&fake->lock);
    }
    (void)pthread_mutex_unlock(&fake->lock);
    return NULL;
}

static void fake_free(struct engine *engine)
{
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    fake->stop = true;
    (void)pthread_cond_broadcast(&fake->changed);
    (void)pthread_mutex_unlock(&fake->lock);
    (void)pthread_join(fake->thread, NULL);
    while (fake->entries) {
        struct entry *next = fake->entries->next;
        fake_sandbox_free(fake->entries->sandbox);
        free(fake->entries);
        fake->entries = next;
    }
    while (fake->tasks) { /* of a sandbox that died while it was freed */
        struct task *next = fake->tasks->next;
        free(fake->tasks);
        fake->tasks = next;
    }
    fake_layers_done(&fake->layers);
    (void)pthread_cond_destroy(&fake->changed);
    (void)pthread_mutex_destroy(&fake->lock);
    free(fake);
}

static int fake_network(struct engine *engine, const char *id, bool full, int64_t deadline_ns,
                        struct err *err)
{
    (void)deadline_ns;
    struct fake *fake = fake_of(engine);
    int result = 0;
    (void)pthread_mutex_lock(&fake->lock);
    struct entry *entry = find_locked(fake, id);
    if (full && (fake->info.capabilities & ENGINE_CAP_FULL) == 0)
        result = err_set(err, ERR_UNSUPPORTED, "there is no network full here");
    else if (!entry || entry->stopped)
        result = err_set(err, ERR_CONFLICT, "no sandbox %s runs", id);
    else
        entry->full = full;
    (void)pthread_mutex_unlock(&fake->lock);
    return result;
}

static const struct engine_operations fake_operations = {
    .probe = fake_probe,
    .create = fake_create,
    .start = fake_start,
    .stop = fake_stop,
    .destroy = fake_destroy,
    .destroy_later = fake_destroy_later,
    .inspect = fake_inspect,
    .list = fake_list,
    .limit = fake_limit,
    .open_channel = fake_open_channel,
    .layer_import = fake_layer_import,
    .layer_attach = fake_layer_attach,
    .layer_remove = fake_layer_remove,
    .layer_list = fake_layer_list,
    .network = fake_network,
    .free = fake_free,
};

static void inject_from_environment(struct engine *engine)
{
    const char *text = getenv("BERTH_FAKE_FAULT");
    for (int i = 0; text && i < FAKE_FAULT_COUNT; i++) {
        size_t size = strlen(fault_names[i]);
        if (strncmp(text, fault_names[i], size) != 0 || (text[size] != '\0' && text[size] != ':'))
            continue;
        unsigned long count = text[size] == ':' ? strtoul(text + size + 1, NULL, 10) : 1;
        engine_fake_inject(engine, (enum engine_fake_fault)i, (unsigned)(count & 0xffffff));
    }
}

int engine_fake_new(const struct engine_events *events, struct engine **out, struct err *err)
{
    struct fake *fake = calloc(1, sizeof(*fake));
    if (!fake)
        return err_set(err, ERR_INTERNAL, "no memory for the fake engine");
    /* Its threads write to sockets whose other end is this process. */
    (void)signal(SIGPIPE, SIG_IGN);
    fake->base = (struct engine){.operations = &fake_operations, .name = "fake"};
    if (events)
        fake->events = *events;
    fake->tasks_tail = &fake->tasks;
    (void)pthread_mutex_init(&fake->lock, NULL);
    (void)pthread_cond_init(&fake->changed, NULL);
    inject_from_environment(&fake->base);
    fake_info(&fake->info);
    add_task(fake, TASK_CONNECTED, "");
    int status = pthread_create(&fake->thread, NULL, worker_main, fake);
    if (status != 0) {
        free(fake->tasks);
        free(fake);
        return err_sys(err, status, "start the fake engine");
    }
    *out = &fake->base;
    return 0;
}

void engine_fake_inject(struct engine *engine, enum engine_fake_fault fault, unsigned count)
{
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    fake->fault = fault;
    fake->fault_count = count;
    (void)pthread_mutex_unlock(&fake->lock);
}

void engine_fake_set_info(struct engine *engine, const struct engine_info *info)
{
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    fake->info = *info;
    (void)pthread_mutex_unlock(&fake->lock);
}

void engine_fake_last_create(struct engine *engine, struct engine_create *out)
{
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    *out = fake->last_create;
    (void)pthread_mutex_unlock(&fake->lock);
}

bool engine_fake_limits(struct engine *engine, const char *id, struct engine_create *out)
{
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    const struct entry *entry = find_locked(fake, id);
    if (entry)
        *out = entry->spec;
    (void)pthread_mutex_unlock(&fake->lock);
    return entry != NULL;
}

bool engine_fake_init_limits(struct engine *engine, const char *id, struct sandbox_limits *out)
{
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    const struct entry *entry = find_locked(fake, id);
    if (entry)
        fake_sandbox_limits(entry->sandbox, out);
    (void)pthread_mutex_unlock(&fake->lock);
    return entry != NULL;
}

bool engine_fake_layer(struct engine *engine, const char *id,
                       char out[static ENGINE_LAYER_NAME_MAX + 1])
{
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    const struct entry *entry = find_locked(fake, id);
    if (entry)
        (void)snprintf(out, ENGINE_LAYER_NAME_MAX + 1, "%s", entry->layer);
    (void)pthread_mutex_unlock(&fake->lock);
    return entry != NULL;
}

bool engine_fake_full(struct engine *engine, const char *id)
{
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    const struct entry *entry = find_locked(fake, id);
    bool full = entry && entry->full;
    (void)pthread_mutex_unlock(&fake->lock);
    return full;
}

bool engine_fake_strike(struct engine *engine, const char *id, enum engine_fake_fault fault)
{
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    const struct entry *entry = find_locked(fake, id);
    if (entry && entry->sandbox)
        fake_sandbox_strike(entry->sandbox, fault);
    (void)pthread_mutex_unlock(&fake->lock);
    return entry != NULL;
}

bool engine_fake_network(struct engine *engine, const char *id, struct sandbox_network *out)
{
    struct fake *fake = fake_of(engine);
    (void)pthread_mutex_lock(&fake->lock);
    const struct entry *entry = find_locked(fake, id);
    if (entry)
        fake_sandbox_network(entry->sandbox, out);
    (void)pthread_mutex_unlock(&fake->lock);
    return entry != NULL;
}

unsigned engine_fake_living(struct engine *engine)
{
    struct fake *fake = fake_of(engine);
    unsigned count = 0;
    (void)pthread_mutex_lock(&fake->lock);
    for (struct entry *entry = fake->entries; entry; entry = entry->next)
        count += entry->stopped ? 0 : 1;
    (void)pthread_mutex_unlock(&fake->lock);
    return count;
}
