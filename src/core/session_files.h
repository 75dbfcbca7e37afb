/* Files that go into and out of a session's sandbox, piece by piece at the pace of the client.
 *
 * Each is moved over a channel of its own, so it goes beside an execution that runs, and keeps the
 * session from being idle. Its bytes are never held here. A file belongs to one thread at a time;
 * every function may block. */
#ifndef BERTH_CORE_SESSION_FILES_H
#define BERTH_CORE_SESSION_FILES_H

#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/sandbox.h"

struct core;
struct session_file;

/* gone_fd becomes readable when the client leaves, and lives as long as the file; -1: none.
 * ERR_NOT_FOUND: no such session. ERR_UNAVAILABLE: SESSION_FILES_MAX of them move already. */
int core_session_file_open(struct core *core, const char *owner, const char *session_id,
                           int gone_fd, struct session_file **out, struct err *err);
/* Breaks off what was not ended: of a file that was written, what came stays. NULL is allowed. */
void core_session_file_close(struct session_file *file);

/* path: absolute, or relative to /workspace. ERR_BAD_INPUT (public): no path, or a folder, a
 * device, a file of the kernel's, no right. ERR_NOT_FOUND (public): there is none, or the session
 * has just ended. */
/* What it is, without a byte of it. */
int core_session_file_look(struct session_file *file, const char *path,
                           struct sandbox_file_info *out, struct err *err);
/* Begins to read size bytes (0: to the end) from offset on; *out is what it is now. */
int core_session_file_read(struct session_file *file, const char *path, uint64_t offset,
                           uint64_t size, struct sandbox_file_info *out, struct err *err);
/* Appends the next piece and returns 1; 0 at the end. A file that was cut meanwhile ends early. */
int core_session_file_next(struct session_file *file, struct buf *out, struct err *err);

/* Begins to write; missing folders are made, a file that is there is emptied. A full disk is
 * ERR_BAD_INPUT (public) in words: the disk is the session's own, and to ask again does not help.
 * The failure shows here or later. */
int core_session_file_write(struct session_file *file, const char *path, struct err *err);
int core_session_file_take(struct session_file *file, const uint8_t *data, size_t size,
                           struct err *err);
/* All was taken: waits until it is written. */
int core_session_file_end(struct session_file *file, uint64_t *out_size, struct err *err);

#endif
