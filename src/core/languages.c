/* Owns what is known of the languages of images. Believes an image about itself, and nobody else:
 * what its programs print is cut, and told as text. */
#include "core/languages.h"

#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "core/core_internal.h"
#include "core/program.h"
#include "core/ready.h"
#include "core/record.h"
#include "engine/channel.h"
#include "lang/lang.h"
#include "wire/frame.h"
#include "wire/json.h"

enum { IMAGES_MAX = 32, LANGS_MAX = 64, LINE_SIZE = 128, SAID_MAX = 4096 };
#define INFO_NS (10 * CLOCK_NS_PER_S)
#define LOOK_NS (200 * CLOCK_NS_PER_MS)     /* between two looks at a client that may have gone */
#define PROBE_MS 10000                      /* of one version */
#define HOST_AGE_NS (3600 * CLOCK_NS_PER_S) /* known for so long, if its files are the same */
#define IMAGE_AGE_NS (60 * CLOCK_NS_PER_S)  /* an image's name may mean another one since */

/* One image; the line of a language that it lacks is empty. */
struct known {
    char engine[ENGINE_NAME_MAX];
    char image[ENGINE_IMAGE_MAX];
    char identity[LANGUAGES_IDENTITY_SIZE];
    int64_t asked_ns;
    char lines[LANGS_MAX][LINE_SIZE];
};

struct languages {
    /* Rank 0. Guards all that follows. */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool asking[CORE_ENGINES_MAX]; /* of each one image at a time, by whoever wants to know */
    struct known *images[IMAGES_MAX];
};

struct languages *languages_new(void)
{
    struct languages *languages = calloc(1, sizeof(*languages));
    if (!languages)
        return NULL;
    (void)pthread_mutex_init(&languages->lock, NULL);
    pthread_condattr_t attributes;
    (void)pthread_condattr_init(&attributes);
    (void)pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&languages->changed, &attributes);
    (void)pthread_condattr_destroy(&attributes);
    return languages;
}

void languages_free(struct languages *languages)
{
    if (!languages)
        return;
    for (size_t i = 0; i < IMAGES_MAX; i++)
        free(languages->images[i]);
    (void)pthread_cond_destroy(&languages->changed);
    (void)pthread_mutex_destroy(&languages->lock);
    free(languages);
}

/* ---- what an image is known by ---- */

/* Whatever installs, upgrades or removes a program of the host changes one of these folders. */
static const char *const host_folders[] = {"/usr/bin",   "/usr/lib",       "/etc/alternatives",
                                           "/usr/local", "/usr/local/bin", "/usr/local/lib"};

bool languages_identity(const char *engine, const char *image,
                        char out[static LANGUAGES_IDENTITY_SIZE])
{
    int used = snprintf(out, LANGUAGES_IDENTITY_SIZE, "%.63s %.255s", engine, image);
    if (strcmp(image, "host") != 0)
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(host_folders); i++) {
        struct stat info = {0};
        (void)stat(host_folders[i], &info); /* one that is missing has no time */
        used += snprintf(out + used, LANGUAGES_IDENTITY_SIZE - (size_t)used, " %" PRId64 ".%ld",
                         (int64_t)info.st_mtim.tv_sec, info.st_mtim.tv_nsec);
    }
    return true;
}

static bool is_of(const struct known *known, const char *engine, const char *image)
{
    return strcmp(known->engine, engine) == 0 && strcmp(known->image, image) == 0;
}

static struct known *find_locked(struct languages *languages, const char *engine, const char *image)
{
    for (size_t i = 0; i < IMAGES_MAX; i++) {
        if (languages->images[i] && is_of(languages->images[i], engine, image))
            return languages->images[i];
    }
    return NULL;
}

/* identity: that of now; it looks at files, so it is not asked for with the lock held. */
static bool is_fresh(const struct known *known, const char *identity, bool identified)
{
    int64_t age_ns = clock_now_ns() - known->asked_ns;
    return strcmp(identity, known->identity) == 0 &&
           age_ns < (identified ? HOST_AGE_NS : IMAGE_AGE_NS);
}

/* In the place of what was known of it, of nothing, or of what was asked for longest ago. */
static void remember_locked(struct languages *languages, struct known *known)
{
    struct known **place = &languages->images[0];
    for (size_t i = 0; i < IMAGES_MAX; i++) {
        struct known **at = &languages->images[i];
        bool same = *at && is_of(*at, known->engine, known->image);
        if (same || (*place && (!*at || (*at)->asked_ns < (*place)->asked_ns)))
            place = at;
        if (same)
            break;
    }
    free(*place);
    *place = known;
}

/* ---- asking ---- */

/* Keeps the beginning of what was said, of either stream. */
static int on_output(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct buf *said = context;
    (void)stream;
    (void)err;
    size_t room = said->max - said->size;
    (void)buf_append(said, data, size < room ? size : room, NULL);
    return 0;
}

/* The first line with something in it, plain characters only. */
static void take_line(const struct buf *said, char out[static LINE_SIZE])
{
    size_t used = 0;
    for (size_t i = 0; i < said->size && used + 1 < LINE_SIZE; i++) {
        uint8_t byte = said->data[i];
        if ((byte == '\n' || byte == '\r') && used > 0)
            break;
        if (byte > ' ' || (byte == ' ' && used > 0))
            out[used++] = byte < 0x7f ? (char)byte : '?';
    }
    out[used] = '\0';
}

/* Asks for one version; no line: the image lacks the language. A program that can't answer within
 * seconds says nothing of whether it is there, but of how busy the host is. */
static int ask_one(struct channel *channel, const struct plan *plan, const struct lang *lang,
                   int cancel_fd, int gone_fd, char out[static LINE_SIZE], struct err *err)
{
    struct channel_exit end;
    const char *argv[LANG_ARGS_MAX + 1] = {NULL};
    size_t argc = 0;
    BUF_AUTO struct buf said;
    buf_init(&said, SAID_MAX);
    for (; argc < LANG_ARGS_MAX && lang->version[argc]; argc++)
        argv[argc] = lang->version[argc];
    const struct channel_exec exec = {
        .exec = {.execution_id = "languages",
                 .cwd = PROGRAM_FOLDER,
                 .argv = argv,
                 .argc = argc,
                 .envp = plan->envp,
                 .envc = plan->envc,
                 .timeout_ms = PROBE_MS,
                 .keep_bytes = SAID_MAX,
                 .output_max_bytes = 16U * SAID_MAX},
        .watch = {.cancel_fd = cancel_fd,
                  .interrupt_fd = -1,
                  .gone_fd = gone_fd,
                  .deadline_ns = clock_now_ns() + 2 * PROBE_MS * CLOCK_NS_PER_MS,
                  .output = on_output,
                  .context = &said}};
    int result = channel_exec(channel, &exec, &end, err);
    if (result != 0)
        return result;
    if (end.exit.cause != KILL_NONE && end.exit.cause != KILL_SIGNAL)
        return err_public(err, ERR_UNAVAILABLE, "the version of %s was not told in time; try again",
                          lang->name);
    out[0] = '\0';
    if (end.exit.exit_code == 0)
        take_line(&said, out);
    if (end.exit.exit_code == 0 && out[0] == '\0')
        (void)snprintf(out, LINE_SIZE, "unknown");
    return 0;
}

static int ask_all(struct channel *channel, const struct plan *plan, const struct live *live,
                   int gone_fd, struct known *known, struct err *err)
{
    size_t count = 0;
    const struct lang *const *all = lang_all(&count);
    int result = 0;
    for (size_t i = 0; i < count && result == 0; i++)
        result = ask_one(channel, plan, all[i], live->cancel_fd, gone_fd, known->lines[i], err);
    return result;
}

/* With the plan made: place, sandbox, questions. */
static int ask_in_sandbox(struct core *core, const struct plan *plan, struct live *live,
                          int gone_fd, struct known *known, struct err *err)
{
    struct ready ready;
    const struct box_life life = {.lifetime_ms = LANGS_MAX * PROBE_MS};
    const struct ready_want want = {.plan = plan, .life = &life};
    int64_t until_ns = clock_now_ns() + (int64_t)core->config.queue_wait_ms * CLOCK_NS_PER_MS;
    int result = admission_acquire(core->admission, &plan->resources.reserve, until_ns,
                                   live->cancel_fd, gone_fd, err);
    if (result != 0)
        return result;
    result = ready_make(core, live, gone_fd, &want, &ready, err);
    admission_created(core->admission);
    if (result != 0)
        return result;
    result = ask_all(ready.channel, plan, live, gone_fd, known, err);
    box_destroy(core, ready.sandbox_id);
    channel_close(ready.channel);
    return result;
}

static int ask_image(struct core *core, int gone_fd, struct known *known, struct err *err)
{
    const struct record_limits nothing = {0};
    const struct execution_request request = {
        .owner = CORE_OWNER_LOCAL, .engine = known->engine, .image = known->image, .gone_fd = -1};
    struct live live = {0};
    struct plan plan;
    struct err failure = ERR_INIT;
    int result = plan_make(core, &request, &plan, err);
    if (result != 0)
        return result;
    struct record *record = record_new(&nothing);
    result = record ? live_begin(core, request.owner, NULL, record, &live, &failure)
                    : err_set(&failure, ERR_INTERNAL, "no memory for a question");
    if (result == 0) {
        result = ask_in_sandbox(core, &plan, &live, gone_fd, known, &failure);
        live_end(core, &live);
    }
    record_unref(record);
    plan_done(&plan);
    if (result == 0)
        return 0;
    log_info("the languages of %s: %s", known->image, failure.message);
    if (failure.kind == ERR_CLOSED || failure.kind == ERR_TIMEOUT || failure.kind == ERR_PROTOCOL)
        return err_public(err, ERR_UNAVAILABLE, "the languages could not be asked for; try again");
    return err_copy(err, &failure);
}

static bool has_gone(int gone_fd)
{
    struct pollfd client = {.fd = gone_fd, .events = POLLIN | POLLRDHUP};
    return poll(&client, 1, 0) > 0;
}

/* Waits until nobody asks the engine, and is the one who does then: 1. 0: the image is known, and
 * *out filled in. ERR_UNAVAILABLE (public): that took too long, or the client has gone. */
static int wait_locked(struct languages *languages, unsigned engine, const char *identity,
                       bool identified, int64_t until_ns, int gone_fd, struct known *out,
                       struct err *err)
{
    for (;;) {
        const struct known *known = find_locked(languages, out->engine, out->image);
        if (known && is_fresh(known, identity, identified)) {
            *out = *known;
            return 0;
        }
        if (!languages->asking[engine]) {
            languages->asking[engine] = true;
            return 1;
        }
        int64_t now_ns = clock_now_ns();
        if (now_ns >= until_ns || has_gone(gone_fd)) {
            int result =
                err_public(err, ERR_UNAVAILABLE,
                           "engine %s is being asked for languages; try again", out->engine);
            if (err)
                err->retry_after_s = 1;
            return result;
        }
        int64_t look_ns = now_ns + LOOK_NS < until_ns ? now_ns + LOOK_NS : until_ns;
        const struct timespec look = {.tv_sec = (time_t)(look_ns / CLOCK_NS_PER_S),
                                      .tv_nsec = (long)(look_ns % CLOCK_NS_PER_S)};
        (void)pthread_cond_timedwait(&languages->changed, &languages->lock, &look);
    }
}

/* Fills in what is known of the engine's image that *out names, and asks it first when that is
 * nothing, or old. */
static int learn(struct core *core, int gone_fd, struct known *out, struct err *err)
{
    struct languages *languages = core->languages;
    char identity[LANGUAGES_IDENTITY_SIZE]; /* from before: what changes meanwhile is asked again */
    bool identified = languages_identity(out->engine, out->image, identity);
    unsigned engine = engines_find(core, out->engine)->index; /* find_place() found it */
    int64_t until_ns = clock_now_ns() + (int64_t)core->config.queue_wait_ms * CLOCK_NS_PER_MS;
    (void)pthread_mutex_lock(&languages->lock);
    int result = wait_locked(languages, engine, identity, identified, until_ns, gone_fd, out, err);
    (void)pthread_mutex_unlock(&languages->lock);
    if (result <= 0)
        return result;
    memcpy(out->identity, identity, sizeof(identity));
    result = ask_image(core, gone_fd, out, err);
    out->asked_ns = clock_now_ns();
    struct known *kept = result == 0 ? malloc(sizeof(*kept)) : NULL;
    if (kept)
        *kept = *out;
    (void)pthread_mutex_lock(&languages->lock);
    if (kept)
        remember_locked(languages, kept);
    languages->asking[engine] = false;
    (void)pthread_cond_broadcast(&languages->changed);
    (void)pthread_mutex_unlock(&languages->lock);
    return result;
}

/* ---- telling ---- */

/* The number in a line: what begins with a digit and goes on in digits and points. */
static void take_number(const char *line, char out[static LINE_SIZE])
{
    const char *at = line + strcspn(line, "0123456789");
    size_t size = strspn(at, "0123456789.");
    while (size > 0 && at[size - 1] == '.')
        size--;
    (void)snprintf(out, LINE_SIZE, "%.*s", (int)size, at);
}

static int put_text(struct buf *out, const char *key, const char *text, struct err *err)
{
    int result = buf_printf(out, err, "\"%s\":", key);
    return result == 0 ? json_append_bytes(out, (const uint8_t *)text, strlen(text), err) : result;
}

static int put_lang(struct buf *out, const struct lang *lang, const char *line, struct err *err)
{
    char number[LINE_SIZE];
    take_number(line, number);
    int result = buf_append_str(out, "{", err);
    if (result == 0)
        result = put_text(out, "name", lang->name, err);
    if (result == 0)
        result = buf_append_str(out, ",\"aliases\":[", err);
    for (size_t i = 0; result == 0 && i < LANG_NAMES_MAX && lang->aliases[i]; i++)
        result = buf_printf(out, err, "%s\"%s\"", i > 0 ? "," : "", lang->aliases[i]);
    if (result == 0)
        result = buf_append_str(out, "],", err);
    if (result == 0)
        result = put_text(out, "version", number[0] != '\0' ? number : line, err);
    if (result == 0)
        result = buf_append_str(out, ",", err);
    if (result == 0)
        result = put_text(out, "version_line", line, err);
    return result == 0
               ? buf_printf(out, err, ",\"state\":%s,\"compiled\":%s,\"libraries\":%s}",
                            lang->kernel ? "true" : "false", lang->compile[0] ? "true" : "false",
                            lang->install[0] ? "true" : "false")
               : result;
}

/* Which engine and which image the caller means. */
static int find_place(struct core *core, const struct languages_ask *ask, struct known *out,
                      struct err *err)
{
    const struct engine_ask which = {.engine = ask->engine};
    struct engine_slot *slot = NULL;
    struct engine_info info;
    const char *runtime = NULL;
    int result = engines_allow(core, &which, err);
    if (result == 0)
        result = engines_choose(core, &which, &slot, &runtime, err);
    if (result == 0 && !ask->image)
        result = slot_info(slot, INT64_MAX, clock_now_ns() + INFO_NS, &info, err);
    if (result != 0)
        return result;
    if (ask->image && strlen(ask->image) >= sizeof(out->image))
        return err_public(err, ERR_BAD_INPUT, "image: longer than the name of one");
    const char *images = ask->image ? ask->image : plan_images(&info);
    int size = ask->image ? (int)strlen(ask->image) : (int)strcspn(images, " ");
    (void)snprintf(out->engine, sizeof(out->engine), "%s", slot->name);
    (void)snprintf(out->image, sizeof(out->image), "%.*s", size, images);
    return 0;
}

int core_languages_json(struct core *core, const struct languages_ask *ask, int gone_fd,
                        struct buf *out, struct err *err)
{
    size_t count = 0;
    const struct lang *const *all = lang_all(&count);
    MEM_AUTO struct known *known = calloc(1, sizeof(*known));
    if (!known)
        return err_set(err, ERR_INTERNAL, "no memory for languages");
    int result = find_place(core, ask, known, err);
    if (result == 0)
        result = learn(core, gone_fd, known, err);
    if (result == 0)
        result = buf_append_str(out, "{", err);
    if (result == 0)
        result = put_text(out, "engine", known->engine, err);
    if (result == 0)
        result = buf_append_str(out, ",", err);
    if (result == 0)
        result = put_text(out, "image", known->image, err);
    if (result == 0)
        result = buf_append_str(out, ",\"languages\":[", err);
    bool first = true;
    for (size_t i = 0; i < count && result == 0; i++) {
        if (known->lines[i][0] == '\0')
            continue;
        if (!first)
            result = buf_append_str(out, ",", err);
        if (result == 0)
            result = put_lang(out, all[i], known->lines[i], err);
        first = false;
    }
    return result == 0 ? buf_append_str(out, "]}", err) : result;
}

/* Whether the image lacks it as far as is known, and what it has. */
static bool lacks_locked(struct languages *languages, const struct plan *plan,
                         const struct lang *lang, char *out_there, size_t size, struct known *out)
{
    size_t count = 0;
    size_t used = 0;
    bool lacks = false;
    const struct lang *const *all = lang_all(&count);
    const struct known *known = find_locked(languages, plan->slot->name, plan->image);
    for (size_t i = 0; known && i < count; i++)
        lacks = lacks || (all[i] == lang && known->lines[i][0] == '\0');
    for (size_t i = 0; lacks && i < count && used < size - 1; i++) {
        if (known->lines[i][0] != '\0')
            used += (size_t)snprintf(out_there + used, size - used, "%s%s", used > 0 ? ", " : "",
                                     all[i]->name);
    }
    if (lacks) {
        out->asked_ns = known->asked_ns;
        memcpy(out->identity, known->identity, sizeof(out->identity));
    }
    return lacks;
}

int languages_check(struct core *core, const struct plan *plan, const struct lang *lang,
                    struct err *err)
{
    char there[200] = "";
    char identity[LANGUAGES_IDENTITY_SIZE];
    struct known known;
    (void)pthread_mutex_lock(&core->languages->lock);
    bool lacks = lacks_locked(core->languages, plan, lang, there, sizeof(there), &known);
    (void)pthread_mutex_unlock(&core->languages->lock);
    if (!lacks)
        return 0;
    bool identified = languages_identity(plan->slot->name, plan->image, identity);
    if (!is_fresh(&known, identity, identified))
        return 0;
    return err_public(err, ERR_BAD_INPUT, "lang: image \"%.60s\" has no %s; it has: %s",
                      plan->image, lang->name,
                      there[0] != '\0' ? there : "none of the languages here");
}
