/* A program that init starts: the code of a language without a kernel, or whose kernel takes cells
 * only. Its source is written into the sandbox, compiled where the language asks for it, and run;
 * two programs of one execution, one after the other on one channel, within one timeout. */
#ifndef BERTH_CORE_PROGRAM_H
#define BERTH_CORE_PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct attempt;
struct buf;
struct channel;
struct compile_cache;
struct lang;

/* Where the code lies, and where programs start. */
#define PROGRAM_FOLDER "/workspace"
enum { PROGRAM_PATH_MAX = 256 };

/* The path of a file beside the code. */
void program_path(const char *file, char out[static PROGRAM_PATH_MAX]);

struct program_job {
    const struct lang *lang;
    const char *code;
    size_t code_size;
    const char *stdin_data; /* of the run; a compiler has none */
    size_t stdin_size;
    const char **envp; /* NULL-ended */
    size_t envc;
    uint64_t timeout_ms;           /* of both together */
    uint64_t memory_bytes;         /* the limit, which a runtime may be told */
    bool of_session;               /* init holds the run's outcome, and it may be interrupted */
    struct compile_cache *cache;   /* NULL: none */
    const struct buf *compile_key; /* what the program is kept under; NULL: it is not */
};

/* Runs it and fills attempt->outcome.exit, which is that of what ended it: of the compiler when
 * that failed (attempt->outcome.phase says so). Figures are of both. Fails as channel_exec().
 * *out_heard: a failure came after init had run something of it, so it can't be repeated
 * elsewhere. */
int program_run(struct attempt *attempt, struct channel *channel, const struct program_job *job,
                bool *out_heard, struct err *err);

#endif
