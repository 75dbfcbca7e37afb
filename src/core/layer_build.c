/* Owns the making of one library layer: a sandbox of its own, the language's installer in it, and
 * the way of what that made to the engine.
 *
 * The sandbox has nothing of any caller but the requirements, which are arguments behind a word
 * that ends options: no variable, no file, no standard input. It is used once, has a root on disk
 * where the host can, and reaches what the operator lets installers reach. What is taken out of it
 * are bytes of a tar, which are hostile; who unpacks them is the engine's cage. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/core_internal.h"
#include "core/layers_internal.h"
#include "core/network_use.h"
#include "core/record.h"
#include "engine/channel.h"
#include "lang/lang.h"
#include "wire/frame.h"

#define INFO_NS (10 * CLOCK_NS_PER_S)
#define IMPORT_NS (600 * CLOCK_NS_PER_S)
#define ANSWER_NS (30 * CLOCK_NS_PER_S) /* past a timeout, which is init's to enforce */
#define PACK_MS 300000U
#define LIST_MS 60000U
#define LIFETIME_EXTRA_MS (PACK_MS + 2 * LIST_MS)
#define RESOLVED_MAX 8192 /* of the installer's words about what is there */
#define WORDS_MAX 200

/* Words of a setting. */
struct words {
    char *copy;
    const char *items[WORDS_MAX];
    size_t count;
};

/* One build as it goes. */
struct work {
    struct core *core;
    struct layer_build *build;
    struct live live;
    struct plan plan;
    struct words env, allow; /* the plan points into them */
    char sandbox_id[SANDBOX_ID_MAX + 1];
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    struct channel *channel;
    int spool_fd; /* the tar, in a file without a name */
    uint64_t spooled_bytes;
    struct err spool_failure;
    struct buf resolved;
};

/* ---- the sandbox ---- */

static uint64_t least(uint64_t left, uint64_t right)
{
    return left < right ? left : right;
}

/* Splits what the operator says. */
static int split(const char *text, const char *separators, struct words *out, struct err *err)
{
    char *rest = NULL;
    out->copy = strdup(text ? text : "");
    if (!out->copy)
        return err_set(err, ERR_INTERNAL, "no memory for settings");
    for (char *word = strtok_r(out->copy, separators, &rest); word && out->count < WORDS_MAX;
         word = strtok_r(NULL, separators, &rest))
        out->items[out->count++] = word;
    return 0;
}

/* Where nobody gets out, installers don't either: what the image has may do. */
static void ask_for_network(const struct work *work, struct network_ask *out)
{
    const struct core *core = work->core;
    const struct network_rules *rules = core->config.network;
    if (!core->egress || !rules || !rules->offered[NETWORK_EGRESS])
        return;
    *out = (struct network_ask){.mode = network_mode_name(NETWORK_EGRESS),
                                .allow = work->allow.items,
                                .allow_count = work->allow.count,
                                .narrowed = work->allow.count > 0};
}

/* As much of memory and disk as the operator gives to installers, as far as the host has it. */
static int make_plan(struct work *work, struct err *err)
{
    const struct core_config *config = &work->core->config;
    struct engine_info info;
    struct err failure = ERR_INIT;
    const char *asked = work->build->runtime[0] != '\0' ? work->build->runtime : NULL;
    char runtime[ENGINE_NAME_MAX];
    int result = slot_info(work->build->slot, INT64_MAX, clock_now_ns() + INFO_NS, &info, err);
    if (result == 0)
        result = engines_runtime(work->build->slot, asked, &info, runtime, err);
    if (result != 0)
        return result;
    struct execution_request request = {.owner = work->build->owner,
                                        .lang = work->build->lang,
                                        .engine = work->build->slot->name,
                                        .runtime = asked,
                                        .image = work->build->image,
                                        .env = work->env.items,
                                        .env_count = work->env.count,
                                        .gone_fd = -1};
    if ((info.capabilities & ENGINE_CAP_MEMORY) != 0)
        request.memory_bytes = least(config->layers_memory_bytes, info.memory_bytes);
    if ((info.capabilities & ENGINE_CAP_STORAGE) == 0)
        request.storage_bytes = 0; /* what is not enforced can't be asked for */
    else if ((info.capabilities & ENGINE_CAP_DISK) != 0)
        request.storage_bytes = least(config->layers_storage_bytes, info.disk_bytes);
    else if (request.memory_bytes != 0)
        request.storage_bytes = least(least(config->layers_storage_bytes, info.storage_bytes),
                                      request.memory_bytes / 2);
    ask_for_network(work, &request.network);
    result = plan_make(work->core, &request, &work->plan, &failure);
    if (result == 0)
        return 0;
    err_wrap(&failure, "a sandbox to install libraries");
    return err_copy(err, &failure);
}

/* Others can cancel it from now on. */
static void say_live(struct work *work)
{
    struct layers *layers = work->core->layers;
    (void)pthread_mutex_lock(&layers->lock);
    memcpy(work->build->live_id, work->live.id, sizeof(work->live.id));
    bool abandoned = work->build->abandoned;
    (void)pthread_mutex_unlock(&layers->lock);
    if (abandoned)
        (void)live_cancel(work->core, NULL, work->live.id, KILL_USER);
}

static int open_network(struct work *work, struct err *err)
{
    const struct sandbox_network network = {.mode = SANDBOX_NETWORK_EGRESS};
    struct err failure = ERR_INIT;
    if (work->plan.network.mode != NETWORK_EGRESS)
        return 0;
    channel_network_later(work->channel, &network);
    int result = network_give(work->core, work->sandbox_id, work->live.owner, work->nonce,
                              &work->plan.network, err);
    if (result == 0 && network_settle(work->core, work->sandbox_id, &failure) != 0)
        log_info("layer %s has no way out yet: %s", work->build->name, failure.message);
    return result;
}

static int open_sandbox(struct work *work, struct err *err)
{
    struct core *core = work->core;
    FD_AUTO int fd = -1;
    const struct box_life life = {.lifetime_ms =
                                      core->config.layers_timeout_ms + LIFETIME_EXTRA_MS};
    int64_t wait_ns = (int64_t)core->config.queue_wait_ms * CLOCK_NS_PER_MS;
    int result = admission_acquire(core->admission, &work->plan.resources.reserve,
                                   clock_now_ns() + wait_ns, work->live.cancel_fd, -1, err);
    if (result != 0)
        return result;
    result = box_create(core, &work->live, -1, &work->plan, &life, work->sandbox_id, &fd,
                        work->nonce, err);
    admission_created(core->admission);
    if (result != 0) {
        work->sandbox_id[0] = '\0';
        return result;
    }
    result = channel_open(fd_take(&fd), work->nonce, &work->channel, err);
    return result == 0 ? open_network(work, err) : result;
}

static void close_sandbox(struct work *work)
{
    if (work->sandbox_id[0] != '\0')
        box_destroy(work->core, work->sandbox_id);
    channel_close(work->channel);
    work->sandbox_id[0] = '\0';
    work->channel = NULL;
}

/* ---- programs in it ---- */

struct program {
    const char *const *argv; /* LANG_ARGS_MAX at most, NULL-ended */
    const struct library_set *set;
    uint64_t timeout_ms, keep_bytes, output_max_bytes;
    channel_output_fn output;
};

static int run(struct work *work, const struct program *program, struct channel_exit *out,
               struct err *err)
{
    const char *argv[LANG_ARGS_MAX + LIBRARIES_MAX + 1] = {NULL};
    size_t argc = 0;
    char id[ID_UUID_SIZE];
    for (; argc < LANG_ARGS_MAX && program->argv[argc]; argc++)
        argv[argc] = program->argv[argc];
    for (size_t i = 0; program->set && i < program->set->count; i++)
        argv[argc++] = program->set->items[i];
    id_uuid(id);
    const struct channel_exec exec = {
        .exec = {.execution_id = id,
                 .cwd = "/workspace",
                 .argv = argv,
                 .argc = argc,
                 .envp = work->plan.envp,
                 .envc = work->plan.envc,
                 .timeout_ms = program->timeout_ms,
                 .keep_bytes = program->keep_bytes,
                 .output_max_bytes = program->output_max_bytes},
        .watch = {.cancel_fd = work->live.cancel_fd,
                  .cancel_cause = &work->live.cancel_cause,
                  .interrupt_fd = -1,
                  .gone_fd = -1,
                  .deadline_ns =
                      clock_now_ns() + (int64_t)program->timeout_ms * CLOCK_NS_PER_MS + ANSWER_NS,
                  .output = program->output,
                  .context = work}};
    int result = channel_exec(work->channel, &exec, out, err);
    if (result != 0)
        return result;
    if (work->live.cancel_cause != KILL_NONE)
        return err_set(err, ERR_CLOSED, "cancelled while libraries were installed");
    return 0;
}

static bool went_well(const struct channel_exit *end)
{
    return end->exit.exit_code == 0 && end->exit.cause == KILL_NONE && end->start_error[0] == '\0';
}

/* Past what is kept the words are dropped; init does the same. */
static int keep_words(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct work *work = context;
    (void)err;
    struct buf *words = &work->build->failure.words[stream == STREAM_STDERR];
    size_t room = words->max - words->size;
    (void)buf_append(words, data, size < room ? size : room, NULL);
    return 0;
}

static int keep_resolved(void *context, int stream, const uint8_t *data, size_t size,
                         struct err *err)
{
    struct work *work = context;
    (void)err;
    size_t room = work->resolved.max - work->resolved.size;
    if (stream == STREAM_STDOUT)
        (void)buf_append(&work->resolved, data, size < room ? size : room, NULL);
    return 0;
}

/* The archives of all builds together get no more of the host's disk than layers may have. */
static int book_spool(struct work *work, uint64_t size, struct err *err)
{
    struct layers *layers = work->core->layers;
    (void)pthread_mutex_lock(&layers->lock);
    bool fits = layers->spooled_bytes + size <= work->core->config.layers_max_bytes;
    if (fits) {
        layers->spooled_bytes += size;
        work->spooled_bytes += size;
    }
    (void)pthread_mutex_unlock(&layers->lock);
    if (fits)
        return 0;
    (void)err_public(err, ERR_UNAVAILABLE,
                     "libraries: there is no room for them while others are installed");
    err->retry_after_s = LAYERS_BUSY_RETRY_S;
    return -ERR_UNAVAILABLE;
}

static void close_spool(struct work *work)
{
    struct layers *layers = work->core->layers;
    fd_close(&work->spool_fd);
    (void)pthread_mutex_lock(&layers->lock);
    layers->spooled_bytes -= work->spooled_bytes;
    (void)pthread_mutex_unlock(&layers->lock);
    work->spooled_bytes = 0;
}

static int keep_tar(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct work *work = context;
    (void)err;
    if (stream != STREAM_STDOUT)
        return 0;
    int result = book_spool(work, size, &work->spool_failure);
    return result == 0 ? fd_write_all(work->spool_fd, data, size, &work->spool_failure) : result;
}

/* LAYER_FAILED: the installer says why. One that is preferred and not there is passed over. */
static int install(struct work *work, struct err *err)
{
    const struct core_config *config = &work->core->config;
    const struct lang *lang = work->build->lang;
    struct layer_failure *failure = &work->build->failure;
    struct channel_exit end = {.start_error = ""};
    struct program program = {.argv = lang->prefer,
                              .set = &work->build->set,
                              .timeout_ms = config->layers_timeout_ms,
                              .keep_bytes = config->keep_output_bytes,
                              .output_max_bytes = config->output_max_bytes,
                              .output = keep_words};
    int result = 0;
    bool missing = !lang->prefer[0];
    if (!missing) {
        result = run(work, &program, &end, err);
        missing = result == 0 && end.start_error[0] != '\0';
    }
    program.argv = lang->install;
    if (result == 0 && missing)
        result = run(work, &program, &end, err);
    if (result != 0 || went_well(&end))
        return result;
    failure->exit = end.exit;
    failure->exit.start_error = "";
    if (end.start_error[0] != '\0') {
        failure->exit.exit_code = 127;
        (void)buf_printf(&failure->words[1], NULL, "berth: %s\n", end.start_error);
    }
    return LAYER_FAILED;
}

/* What it installed, for people; that it can't be said is no failure. */
static void list_installed(struct work *work)
{
    struct channel_exit end;
    struct err failure = ERR_INIT;
    const struct program program = {.argv = work->build->lang->installed,
                                    .timeout_ms = LIST_MS,
                                    .keep_bytes = RESOLVED_MAX,
                                    .output_max_bytes = UINT64_C(1) << 20,
                                    .output = keep_resolved};
    if (!program.argv[0])
        return;
    if (run(work, &program, &end, &failure) != 0 || !went_well(&end))
        work->resolved.size = 0;
}

static int open_spool(struct work *work, struct err *err)
{
    const char *path = work->core->config.db_path;
    const char *slash = strrchr(path, '/');
    char folder[4096] = ".";
    if (slash)
        (void)snprintf(folder, sizeof(folder), "%.*s", (int)(slash - path + 1), path);
    work->spool_fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return work->spool_fd < 0 ? err_sys(err, errno, "a file for a layer") : 0;
}

/* All that the installer left, as a tar, over standard output into the spool. */
static int pack(struct work *work, struct err *err)
{
    static const char *const argv[] = {"tar", "-cf", "-", "-C", ENGINE_LAYER_PLACE, ".", NULL};
    struct channel_exit end;
    uint64_t most = work->core->config.layers_max_bytes;
    const struct program program = {.argv = argv,
                                    .timeout_ms = PACK_MS,
                                    .keep_bytes = most,
                                    .output_max_bytes = most,
                                    .output = keep_tar};
    int result = open_spool(work, err);
    if (result == 0)
        result = run(work, &program, &end, err);
    if (result != 0)
        return result;
    if (work->spool_failure.kind != ERR_NONE)
        return err_copy(err, &work->spool_failure);
    if (end.exit.cause == KILL_OUTPUT)
        return err_public(err, ERR_BAD_INPUT, "libraries: together they are too large");
    if (!went_well(&end))
        return err_set(err, ERR_UNAVAILABLE, "tar of a layer: exit code %u: %s", end.exit.exit_code,
                       end.start_error);
    if (lseek(work->spool_fd, 0, SEEK_SET) != 0)
        return err_sys(err, errno, "the file of a layer");
    return 0;
}

/* ---- to the engine ---- */

static int import(struct work *work, uint64_t *out_size, struct err *err)
{
    struct core *core = work->core;
    struct engine *engine = NULL;
    struct err failure = ERR_INIT;
    const struct engine_layer_import wanted = {.name = work->build->name,
                                               .tar_fd = work->spool_fd,
                                               .size_max_bytes = core->config.layers_max_bytes};
    int result = slot_engine(work->build->slot, &engine, err);
    if (result == 0)
        result =
            engine_layer_import(engine, &wanted, clock_now_ns() + IMPORT_NS, out_size, &failure);
    if (result == 0)
        result = layers_make_room(core, 1, *out_size, &failure);
    if (result == 0)
        return 0;
    layers_drop(core, work->build->slot->name, work->build->name);
    if (failure.kind == ERR_BAD_INPUT)
        return err_public(err, ERR_BAD_INPUT, "libraries: %.300s", failure.public_message);
    return err_copy(err, &failure);
}

static int fill_row(struct work *work, uint64_t size_bytes, struct store_layer *row,
                    struct err *err)
{
    const struct layer_build *build = work->build;
    BUF_AUTO struct buf list;
    buf_init(&list, LIBRARIES_MAX * (REQUIREMENT_MAX + 4) + 4);
    int result = library_set_json(&build->set, &list, err);
    if (result != 0)
        return result;
    memcpy(row->name, build->name, sizeof(row->name));
    memcpy(row->owner, build->owner, sizeof(row->owner));
    memcpy(row->image, build->image, sizeof(row->image));
    (void)snprintf(row->lang, sizeof(row->lang), "%s", build->lang->name);
    (void)snprintf(row->engine, sizeof(row->engine), "%s", build->slot->name);
    row->key = strdup(build->key);
    const char *requirements = buf_cstr(&list);
    row->requirements = requirements ? strdup(requirements) : NULL;
    const char *resolved = buf_cstr(&work->resolved);
    row->resolved = resolved ? strdup(resolved) : NULL;
    row->size_bytes = size_bytes;
    row->created_us = row->used_us = clock_wall_us();
    return row->key && row->requirements && row->resolved
               ? 0
               : err_set(err, ERR_INTERNAL, "no memory for a layer");
}

/* With the plan made and the build entered among what lives. */
static int work_through(struct work *work, struct store_layer *out_row, struct err *err)
{
    uint64_t size_bytes = 0;
    int result = open_sandbox(work, err);
    if (result == 0)
        result = install(work, err);
    if (result == 0)
        list_installed(work);
    if (result == 0)
        result = pack(work, err);
    close_sandbox(work);
    if (result == 0)
        result = import(work, &size_bytes, err);
    if (result != 0)
        return result;
    result = fill_row(work, size_bytes, out_row, err);
    if (result != 0)
        layers_drop(work->core, work->build->slot->name, work->build->name);
    return result;
}

/* What a failure that is not the caller's means to the caller. */
static int explain(const struct err *failure, struct err *err)
{
    if (failure->kind == ERR_BAD_INPUT || failure->kind == ERR_UNSUPPORTED ||
        (failure->kind == ERR_UNAVAILABLE && failure->public_message[0] != '\0'))
        return err_copy(err, failure);
    struct err words = *failure;
    words.kind = ERR_UNAVAILABLE;
    words.retry_after_s = 2;
    (void)snprintf(words.public_message, sizeof(words.public_message),
                   "libraries: what was to install them ended before; try again");
    return err_copy(err, &words);
}

int layer_build_run(struct layer_build *build, struct store_layer *out_row, struct err *err)
{
    struct core *core = build->core;
    struct work work = {.core = core, .build = build, .spool_fd = -1};
    const struct record_limits nothing = {0};
    struct err failure = ERR_INIT;
    buf_init(&work.resolved, RESOLVED_MAX);
    struct record *record = record_new(&nothing);
    int result = record ? layers_make_room(core, 1, 0, &failure)
                        : err_set(&failure, ERR_INTERNAL, "no memory for a build");
    if (result == 0)
        result = split(core->config.layers_env, " \t", &work.env, &failure);
    if (result == 0)
        result = split(core->config.layers_allow, " \t,", &work.allow, &failure);
    if (result == 0)
        result = make_plan(&work, &failure);
    if (result == 0)
        result = live_begin(core, build->owner, NULL, record, &work.live, &failure);
    if (result == 0) {
        say_live(&work);
        result = work_through(&work, out_row, &failure);
        live_end(core, &work.live);
    }
    close_spool(&work);
    plan_done(&work.plan);
    buf_done(&work.resolved);
    record_unref(record);
    free(work.env.copy);
    free(work.allow.copy);
    return result < 0 ? explain(&failure, err) : result;
}
