/* Owns how long an execution is waited for: what breaks, what a signal means, when to give up. */
#include "cli/watch.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

#include "base/buf.h"
#include "cli/call.h"
#include "cli/client.h"

enum { ANSWER_MAX = 64 * 1024 * 1024, TRIES = 30 };

/* Before its start an execution is in its queue, and what runs is somebody else's: then it is
 * itself cancelled, once. */
static struct client_aside on_signal(void *context, int signal_number)
{
    struct watch *watch = context;
    const char *id = watch->show.id;
    bool leave = signal_number == SIGTERM && watch->term_leaves;
    if (leave || id[0] == '\0' || watch->interrupts >= watch->interrupts_max) {
        watch->left = true;
        watch->terminated = signal_number == SIGTERM;
        return (struct client_aside){0};
    }
    watch->interrupts++;
    if (watch->show.queued && call_path("executions", id, NULL, watch->cancel_path, NULL) == 0)
        return (struct client_aside){.method = "DELETE", .path = watch->cancel_path};
    return (struct client_aside){.method = "POST", .path = watch->interrupt_path};
}

static int on_line(void *context, const char *line, size_t size, struct err *err)
{
    struct watch *watch = context;
    return show_line(&watch->show, line, size, err);
}

/* One request for events. 0 also when the stream ended without an end. */
static int ask(struct watch *watch, const char *method, const char *path, const char *body,
               size_t body_size, struct err *err)
{
    BUF_AUTO struct buf answer;
    buf_init(&answer, ANSWER_MAX);
    struct client_request request = {
        .url = watch->url,
        .method = method,
        .path = path,
        .accept = "application/x-ndjson",
        .body = body,
        .body_size = body_size,
        .line = on_line,
        .signal = watch->interrupt_path ? on_signal : NULL,
        .context = watch,
    };
    long status = 0;
    int result = client_send(&request, &answer, &status, err);
    if (result == 0 && status != 200)
        result = client_refused(status, &answer, err);
    /* A server that is starting, or whose engine is: worth another try. */
    return result != 0 && status == 503 ? -ERR_UNAVAILABLE : result;
}

/* Waits a second, for the server to come back; a signal ends that. */
static void pause_between(struct watch *watch)
{
    const struct timespec second = {.tv_sec = 1};
    sigset_t wanted;
    sigset_t before;
    (void)sigemptyset(&wanted);
    if (watch->interrupt_path) {
        (void)sigaddset(&wanted, SIGINT);
        (void)sigaddset(&wanted, SIGTERM);
    }
    (void)sigprocmask(SIG_BLOCK, &wanted, &before);
    int signal_number = sigtimedwait(&wanted, NULL, &second);
    watch->left = signal_number > 0;
    watch->terminated = signal_number == SIGTERM;
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
}

/* Whether another try may show more: something came, then the connection broke, or the server broke
 * it off. */
static bool may_go_on(const struct watch *watch, int result)
{
    bool broken = result == 0 || result == -ERR_CLOSED || result == -ERR_UNAVAILABLE;
    bool known = watch->show.last > 0 || watch->show.queued;
    return broken && !watch->left && !watch->show.failed && known;
}

static int say_why(const struct watch *watch, int result, struct err *err)
{
    const struct show *show = &watch->show;
    if (result != 0 && !watch->left && (result != -ERR_CLOSED || !show->trouble[0]))
        return result;
    if (show->id[0] == '\0')
        return err_set(err, ERR_CLOSED, "%s",
                       watch->left        ? "left before it began; it may still run"
                       : show->trouble[0] ? show->trouble
                                          : "the answer ended before the execution began");
    return err_set(err, ERR_CLOSED, "%s; `berth logs --follow %s` shows the rest",
                   watch->left        ? "left while it runs"
                   : show->trouble[0] ? show->trouble
                                      : "the answer ended before the execution did",
                   show->id);
}

int watch_events(struct watch *watch, struct err *err)
{
    int result = 0;
    for (unsigned tries = 0; tries < TRIES; tries++) {
        char path[200];
        char base[160];
        uint64_t before = watch->show.last;
        result = call_path("executions", watch->show.id, "events", base, err);
        if (result != 0)
            return result;
        (void)snprintf(path, sizeof(path), "%s?after=%" PRIu64 "%s", base, before,
                       watch->only_known ? "&follow=0" : "");
        result = ask(watch, "GET", path, NULL, 0, err);
        if (watch->show.ended || (result == 0 && watch->show.open))
            return 0;
        if (!may_go_on(watch, result))
            break;
        if (watch->show.last != before)
            tries = 0;
        pause_between(watch);
        if (watch->left)
            break;
    }
    return say_why(watch, result, err);
}

int watch_code(struct watch *watch, const char *path, const char *body, size_t body_size,
               struct err *err)
{
    int result = ask(watch, "POST", path, body, body_size, err);
    if (watch->show.ended)
        return 0;
    if (may_go_on(watch, result))
        return watch_events(watch, err);
    return say_why(watch, result, err);
}
