/* Owns the dispatch from the engine's functions to a provider. Keeps no state. */
#include "engine/engine.h"

#include <errno.h>
#include <poll.h>

int engine_create(struct engine *engine, const struct engine_create *spec, int64_t deadline_ns,
                  int *out_channel_fd, uint8_t out_nonce[static SANDBOX_NONCE_SIZE],
                  struct err *err)
{
    const struct engine_wait wait = {.deadline_ns = deadline_ns, .cancel_fd = -1, .gone_fd = -1};
    return engine->operations->create(engine, spec, &wait, out_channel_fd, out_nonce, err);
}

int engine_create_watched(struct engine *engine, const struct engine_create *spec,
                          const struct engine_wait *wait, int *out_channel_fd,
                          uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    return engine->operations->create(engine, spec, wait, out_channel_fd, out_nonce, err);
}

int engine_start(struct engine *engine, const struct engine_create *spec, int64_t deadline_ns,
                 int *out_channel_fd, uint8_t out_nonce[static SANDBOX_NONCE_SIZE], struct err *err)
{
    if (!engine->operations->start)
        return err_set(err, ERR_UNSUPPORTED, "%s has no stopped sandboxes", engine->name);
    return engine->operations->start(engine, spec, deadline_ns, out_channel_fd, out_nonce, err);
}

int engine_stop(struct engine *engine, const char *id, int64_t deadline_ns, struct err *err)
{
    if (!engine->operations->stop)
        return err_set(err, ERR_UNSUPPORTED, "%s has no stopped sandboxes", engine->name);
    return engine->operations->stop(engine, id, deadline_ns, err);
}

int engine_destroy(struct engine *engine, const char *id, int64_t deadline_ns, struct err *err)
{
    return engine->operations->destroy(engine, id, deadline_ns, err);
}

void engine_destroy_later(struct engine *engine, const char *id)
{
    engine->operations->destroy_later(engine, id);
}

int engine_limit(struct engine *engine, const struct engine_create *spec, int64_t deadline_ns,
                 struct err *err)
{
    if (!engine->operations->limit)
        return err_set(err, ERR_UNSUPPORTED, "%s changes no limits", engine->name);
    return engine->operations->limit(engine, spec, deadline_ns, err);
}

int engine_probe(struct engine *engine, int64_t deadline_ns, struct engine_info *out,
                 struct err *err)
{
    return engine->operations->probe(engine, deadline_ns, out, err);
}

int engine_inspect(struct engine *engine, const char *id, int64_t deadline_ns,
                   enum engine_state *out, struct err *err)
{
    return engine->operations->inspect(engine, id, deadline_ns, out, err);
}

int engine_list(struct engine *engine, int64_t deadline_ns, char (**out_ids)[SANDBOX_ID_MAX + 1],
                size_t *out_count, struct err *err)
{
    return engine->operations->list(engine, deadline_ns, out_ids, out_count, err);
}

int engine_open_channel(struct engine *engine, const char *id, int64_t deadline_ns,
                        int *out_channel_fd, struct err *err)
{
    return engine->operations->open_channel(engine, id, deadline_ns, out_channel_fd, err);
}

static int lacks_layers(const struct engine *engine, struct err *err)
{
    return err_set(err, ERR_UNSUPPORTED, "%s has no library layers", engine->name);
}

int engine_layer_import(struct engine *engine, const struct engine_layer_import *import,
                        int64_t deadline_ns, uint64_t *out_size_bytes, struct err *err)
{
    if (!engine->operations->layer_import)
        return lacks_layers(engine, err);
    return engine->operations->layer_import(engine, import, deadline_ns, out_size_bytes, err);
}

int engine_layer_attach(struct engine *engine, const char *id, const char *name,
                        int64_t deadline_ns, struct err *err)
{
    if (!engine->operations->layer_attach)
        return lacks_layers(engine, err);
    return engine->operations->layer_attach(engine, id, name, deadline_ns, err);
}

int engine_layer_remove(struct engine *engine, const char *name, int64_t deadline_ns,
                        struct err *err)
{
    if (!engine->operations->layer_remove)
        return lacks_layers(engine, err);
    return engine->operations->layer_remove(engine, name, deadline_ns, err);
}

int engine_layer_list(struct engine *engine, int64_t deadline_ns, struct engine_layer **out_layers,
                      size_t *out_count, struct err *err)
{
    if (!engine->operations->layer_list)
        return lacks_layers(engine, err);
    return engine->operations->layer_list(engine, deadline_ns, out_layers, out_count, err);
}

int engine_network(struct engine *engine, const char *id, bool full, int64_t deadline_ns,
                   struct err *err)
{
    if (!engine->operations->network)
        return err_set(err, ERR_UNSUPPORTED, "%s has no network \"full\"", engine->name);
    return engine->operations->network(engine, id, full, deadline_ns, err);
}

int engine_set_away(struct err *err, const char *why)
{
    int result = err_public(err, ERR_UNAVAILABLE, "the sandbox engine %s; try again", why);
    if (err) {
        err->sys_errno = ENOTCONN;
        err->retry_after_s = 1;
    }
    return result;
}

bool engine_wait_is_over(const struct engine_wait *wait, int timeout_ms)
{
    struct pollfd fds[2] = {{.fd = wait->cancel_fd, .events = POLLIN},
                            {.fd = wait->gone_fd, .events = POLLIN | POLLRDHUP}};
    return poll(fds, 2, timeout_ms) > 0;
}

bool engine_is_away(const struct err *err)
{
    return err->kind == ERR_UNAVAILABLE && err->sys_errno == ENOTCONN;
}

void engine_free(struct engine *engine)
{
    if (engine)
        engine->operations->free(engine);
}
