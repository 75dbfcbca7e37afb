/* Owns the way of one file between a client and a session's init. Holds no byte of it but the piece
 * that is on its way. */
#include "core/session_files.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "core/session_internal.h"

/* Init answers for itself: it ends a child that moves no byte for 30 s when it could. */
#define STEP_NS (60 * CLOCK_NS_PER_S)
#define FILE_MODE 0644

struct session_file {
    struct core *core;
    struct session *session; /* a reference */
    int gone_fd;
    struct channel *channel; /* NULL: to be opened */
    struct channel_reader *reader;
    struct channel_writer *writer;
};

int session_take_place(struct core *core, struct session *session, struct err *err)
{
    (void)pthread_mutex_lock(&core->lock);
    bool taken = session->files < SESSION_FILES_MAX;
    session->files += taken;
    session->used_us = clock_wall_us();
    (void)pthread_mutex_unlock(&core->lock);
    if (taken)
        return 0;
    int result = err_public(err, ERR_UNAVAILABLE,
                            "%d files and terminals of this session are open already, the most at "
                            "once; try again",
                            SESSION_FILES_MAX);
    if (err)
        err->retry_after_s = 1;
    return result;
}

void session_give_place(struct core *core, struct session *session)
{
    (void)pthread_mutex_lock(&core->lock);
    session->files--;
    session->used_us = clock_wall_us();
    (void)pthread_mutex_unlock(&core->lock);
}

int core_session_file_open(struct core *core, const char *owner, const char *session_id,
                           int gone_fd, struct session_file **out, struct err *err)
{
    struct session *session = NULL;
    int result = session_find(core, owner, session_id, &session, err);
    if (result != 0)
        return result;
    struct session_file *file = calloc(1, sizeof(*file));
    result = file ? session_take_place(core, session, err)
                  : err_set(err, ERR_INTERNAL, "no memory for a file");
    if (result != 0 || !file) {
        free(file);
        session_unref(core, session);
        return result;
    }
    *file = (struct session_file){.core = core, .session = session, .gone_fd = gone_fd};
    *out = file;
    return 0;
}

/* The channel goes with the file: it is good for another one only when this came to its end. */
static void end_talk(struct session_file *file)
{
    channel_read_close(file->reader);
    channel_write_close(file->writer);
    file->reader = NULL;
    file->writer = NULL;
    channel_close(file->channel);
    file->channel = NULL;
}

void core_session_file_close(struct session_file *file)
{
    if (!file)
        return;
    end_talk(file);
    session_give_place(file->core, file->session);
    session_unref(file->core, file->session);
    free(file);
}

static int has_ended(const struct session_file *file, struct err *err)
{
    return err_public(err, ERR_NOT_FOUND, "session %.40s has just ended", file->session->row.id);
}

/* What a failure of the transfer means to the client. */
static int explain(struct session_file *file, int result, const struct err *failure,
                   struct err *err)
{
    end_talk(file);
    bool lost = result == -ERR_CLOSED || result == -ERR_TIMEOUT || result == -ERR_PROTOCOL;
    if (lost && session_is_closed(file->core, file->session))
        return has_ended(file, err);
    return err_copy(err, failure);
}

static int check_path(const char *path, struct err *err)
{
    if (!path || path[0] == '\0')
        return err_public(err, ERR_BAD_INPUT,
                          "path: name a file of the session, as in ?path=dir/file");
    if (strlen(path) >= SANDBOX_PATH_MAX)
        return err_public(err, ERR_BAD_INPUT, "path: longer than %d bytes", SANDBOX_PATH_MAX - 1);
    return 0;
}

/* Checks what holds for every transfer, and sees to the channel. */
static int begin(struct session_file *file, const char *path, struct channel_watch *watch,
                 struct err *err)
{
    struct err failure = ERR_INIT;
    int result = check_path(path, err);
    if (result != 0)
        return result;
    if (core_is_stopping(file->core))
        return core_say_stopping(err);
    *watch = (struct channel_watch){.cancel_fd = -1, .interrupt_fd = -1, .gone_fd = file->gone_fd};
    end_talk(file);
    result = session_open_channel(file->core, file->session, &file->channel, &failure);
    return result == 0 ? 0 : session_explain(file->core, file->session, result, &failure, err);
}

static int open_reader(struct session_file *file, const struct sandbox_get_file *get,
                       struct sandbox_file_info *out, struct err *err)
{
    struct channel_watch watch;
    struct err failure = ERR_INIT;
    int result = begin(file, get->path, &watch, err);
    if (result != 0)
        return result;
    result = channel_read_open(file->channel, get, &watch, STEP_NS, out, &file->reader, &failure);
    return result == 0 ? 0 : explain(file, result, &failure, err);
}

int core_session_file_look(struct session_file *file, const char *path,
                           struct sandbox_file_info *out, struct err *err)
{
    const struct sandbox_get_file get = {.path = path, .info = SANDBOX_INFO_ONLY};
    int result = open_reader(file, &get, out, err);
    if (result == 0)
        end_talk(file);
    return result;
}

int core_session_file_read(struct session_file *file, const char *path, uint64_t offset,
                           uint64_t size, struct sandbox_file_info *out, struct err *err)
{
    const struct sandbox_get_file get = {
        .path = path, .offset = offset, .size_bytes = size, .info = SANDBOX_INFO_FIRST};
    return open_reader(file, &get, out, err);
}

int core_session_file_next(struct session_file *file, struct buf *out, struct err *err)
{
    struct err failure = ERR_INIT;
    int result = channel_read_next(file->reader, out, &failure);
    return result >= 0 ? result : explain(file, result, &failure, err);
}

int core_session_file_write(struct session_file *file, const char *path, struct err *err)
{
    const struct sandbox_put_file put = {.path = path, .mode = FILE_MODE};
    struct channel_watch watch;
    struct err failure = ERR_INIT;
    int result = begin(file, path, &watch, err);
    if (result != 0)
        return result;
    result = channel_write_open(file->channel, &put, &watch, STEP_NS, &file->writer, &failure);
    return result == 0 ? 0 : explain(file, result, &failure, err);
}

int core_session_file_take(struct session_file *file, const uint8_t *data, size_t size,
                           struct err *err)
{
    struct err failure = ERR_INIT;
    int result = channel_write(file->writer, data, size, &failure);
    return result == 0 ? 0 : explain(file, result, &failure, err);
}

int core_session_file_end(struct session_file *file, uint64_t *out_size, struct err *err)
{
    struct err failure = ERR_INIT;
    int result = channel_write_end(file->writer, out_size, &failure);
    if (result != 0)
        return explain(file, result, &failure, err);
    end_talk(file);
    return 0;
}
