/* Owns the waiting of a command for the daemon. */
#include "docker/remote.h"

#include <stdbool.h>
#include <string.h>

#include "base/clock.h"
#include "docker/loop.h"
#include "docker/web.h"

#define STEP_NS (60 * CLOCK_NS_PER_S)

enum { LINE_MAX_BYTES = 4 << 20 };

/* One call that is waited for. */
struct wait {
    const struct remote_call *call;
    struct web_call *web_call;
    struct progress lines;
    struct buf *reply;
    bool is_over;
    struct err err;
};

int remote_open(struct remote *remote, struct err *err)
{
    int result = address_find(&remote->address, err);
    if (result == 0)
        result = loop_new(&remote->loop, err);
    if (result == 0)
        result = web_new(remote->loop, &remote->address, &remote->web, err);
    return result;
}

void remote_close(struct remote *remote)
{
    web_free(remote->web);
    loop_free(remote->loop);
    remote->web = NULL;
    remote->loop = NULL;
}

static bool on_piece(void *context, const void *data, size_t size)
{
    struct wait *wait = context;
    progress_take(&wait->lines, data, size);
    return true;
}

static void on_done(void *context, long status, struct buf *body, const struct err *error)
{
    struct wait *wait = context;
    wait->web_call = NULL;
    wait->is_over = true;
    if (error)
        wait->err = *error;
    else if (status < 200 || status >= 300)
        (void)web_refused(status, body, wait->call->what, &wait->err);
    else if (wait->reply)
        (void)buf_append(wait->reply, body->data, body->size, &wait->err);
    if (wait->call->take)
        progress_end(&wait->lines);
}

int remote_do(struct remote *remote, const struct remote_call *call, struct buf *reply,
              struct err *err)
{
    struct wait wait = {.call = call, .reply = reply};
    const struct web_request request = {.method = call->method,
                                        .path = call->path,
                                        .type = "application/x-tar",
                                        .header = call->header,
                                        .body_fd = call->body_fd,
                                        .body_size = call->body_size,
                                        .idle_ns = call->stall_ns,
                                        .data = call->take ? on_piece : NULL,
                                        .done = on_done,
                                        .context = &wait};
    progress_init(&wait.lines, LINE_MAX_BYTES, call->take, call->context);
    int result = web_start(remote->web, &request, &wait.web_call, err);
    while (result == 0 && !wait.is_over)
        result = loop_step(remote->loop, clock_now_ns() + STEP_NS, err);
    web_cancel(&wait.web_call);
    progress_done(&wait.lines);
    if (result == 0 && wait.err.kind != ERR_NONE)
        result = err_copy(err, &wait.err);
    return result;
}
