/* Owns the field tags of greetings, executions and files. Tags are never reused for something else;
 * sandbox_session.c has the rest. */
#include "wire/sandbox.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "wire/sandbox_fields.h"
#include "wire/tlv.h"

enum hello_tag { HELLO_VERSION_MIN = 1, HELLO_VERSION_MAX, HELLO_CAPABILITIES, HELLO_NONCE };
enum exec_tag {
    EXEC_ID = 1,
    EXEC_CWD,
    EXEC_ARG,
    EXEC_ENV,
    EXEC_TIMEOUT_MS,
    EXEC_KEEP_BYTES,
    EXEC_OUTPUT_MAX_BYTES,
    EXEC_HOLD,
    EXEC_TERMINAL
};
enum exit_tag {
    EXIT_CODE = 1,
    EXIT_CAUSE,
    EXIT_LIMITS_HIT,
    EXIT_CPU_US,
    EXIT_WALL_US,
    EXIT_MAX_RSS,
    EXIT_MEMORY_PEAK,
    EXIT_STDOUT_BYTES,
    EXIT_STDERR_BYTES,
    EXIT_PIDS_PEAK,
    EXIT_START_ERROR,
    EXIT_MESSAGE_BYTES,
    EXIT_MESSAGES_DROPPED,
    EXIT_STATE_LOST
};
enum put_tag { PUT_PATH = 1, PUT_MODE };
enum get_tag { GET_PATH = 1, GET_OFFSET, GET_SIZE, GET_INFO };
enum done_tag { DONE_ERRNO = 1, DONE_SIZE };

int sandbox_decode_fields(const void *payload, size_t size, sandbox_field_fn take_field, void *out,
                          struct err *err)
{
    struct tlv_reader reader;
    struct tlv_field field;
    int result = 0;
    tlv_open(&reader, payload, size);
    while ((result = tlv_next(&reader, &field, err)) > 0) {
        result = take_field(&field, out, err);
        if (result != 0)
            break;
    }
    return result;
}

int sandbox_hello_encode(const struct sandbox_hello *hello, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_u64(&writer, HELLO_VERSION_MIN, hello->version_min);
    tlv_put_u64(&writer, HELLO_VERSION_MAX, hello->version_max);
    tlv_put_u64(&writer, HELLO_CAPABILITIES, hello->capabilities);
    tlv_put_bytes(&writer, HELLO_NONCE, hello->nonce, sizeof(hello->nonce));
    return tlv_end(&writer, err);
}

static int hello_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_hello *hello = out;
    switch ((enum hello_tag)field->tag) {
    case HELLO_VERSION_MIN:
        return tlv_u32(field, &hello->version_min, err);
    case HELLO_VERSION_MAX:
        return tlv_u32(field, &hello->version_max, err);
    case HELLO_CAPABILITIES:
        return tlv_u64(field, &hello->capabilities, err);
    case HELLO_NONCE:
        if (field->size != sizeof(hello->nonce))
            return err_set(err, ERR_PROTOCOL, "a nonce of %zu bytes", field->size);
        memcpy(hello->nonce, field->data, sizeof(hello->nonce));
        return 0;
    }
    return 0;
}

int sandbox_hello_decode(const void *payload, size_t size, struct sandbox_hello *hello,
                         struct err *err)
{
    struct sandbox_hello decoded = {0};
    int result = sandbox_decode_fields(payload, size, hello_field, &decoded, err);
    if (result == 0 && (decoded.version_min == 0 || decoded.version_max < decoded.version_min))
        result = err_set(err, ERR_PROTOCOL, "a hello without versions");
    if (result == 0)
        *hello = decoded;
    return result;
}

int sandbox_hello_agree(const struct sandbox_hello *ours, const struct sandbox_hello *theirs,
                        struct err *err)
{
    uint32_t low =
        ours->version_min > theirs->version_min ? ours->version_min : theirs->version_min;
    uint32_t high =
        ours->version_max < theirs->version_max ? ours->version_max : theirs->version_max;
    if (low > high || high > INT_MAX)
        return err_set(err, ERR_PROTOCOL, "no common version: we speak %u to %u, the peer %u to %u",
                       ours->version_min, ours->version_max, theirs->version_min,
                       theirs->version_max);
    return (int)high;
}

int sandbox_exec_encode(const struct sandbox_exec *exec, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_str(&writer, EXEC_ID, exec->execution_id);
    tlv_put_str(&writer, EXEC_CWD, exec->cwd);
    for (size_t i = 0; i < exec->argc; i++)
        tlv_put_str(&writer, EXEC_ARG, exec->argv[i]);
    for (size_t i = 0; i < exec->envc; i++)
        tlv_put_str(&writer, EXEC_ENV, exec->envp[i]);
    tlv_put_u64(&writer, EXEC_TIMEOUT_MS, exec->timeout_ms);
    tlv_put_u64(&writer, EXEC_KEEP_BYTES, exec->keep_bytes);
    tlv_put_u64(&writer, EXEC_OUTPUT_MAX_BYTES, exec->output_max_bytes);
    tlv_put_u64(&writer, EXEC_HOLD, exec->hold);
    tlv_put_u64(&writer, EXEC_TERMINAL, exec->terminal);
    return tlv_end(&writer, err);
}

static int exec_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_exec *exec = out;
    const char *text = NULL;
    int status = 0;
    switch ((enum exec_tag)field->tag) {
    case EXEC_ID:
        return tlv_str(field, &exec->execution_id, err);
    case EXEC_CWD:
        return tlv_str(field, &exec->cwd, err);
    case EXEC_ARG:
        status = tlv_str(field, &text, err);
        return status != 0 ? status : sandbox_push_string(&exec->argv, &exec->argc, text, err);
    case EXEC_ENV:
        status = tlv_str(field, &text, err);
        return status != 0 ? status : sandbox_push_string(&exec->envp, &exec->envc, text, err);
    case EXEC_TIMEOUT_MS:
        return tlv_u64(field, &exec->timeout_ms, err);
    case EXEC_KEEP_BYTES:
        return tlv_u64(field, &exec->keep_bytes, err);
    case EXEC_OUTPUT_MAX_BYTES:
        return tlv_u64(field, &exec->output_max_bytes, err);
    case EXEC_HOLD:
        return tlv_bool(field, &exec->hold, err);
    case EXEC_TERMINAL:
        return tlv_u32(field, &exec->terminal, err);
    }
    return 0;
}

int sandbox_exec_decode(const void *payload, size_t size, struct sandbox_exec *exec,
                        struct err *err)
{
    struct sandbox_exec decoded = {
        .execution_id = "", .cwd = "/", .keep_bytes = UINT64_MAX, .output_max_bytes = UINT64_MAX};
    int result = sandbox_decode_fields(payload, size, exec_field, &decoded, err);
    if (result == 0 && decoded.argc == 0)
        result = err_set(err, ERR_PROTOCOL, "an execution without a program");
    if (result == 0 && strlen(decoded.execution_id) > SANDBOX_ID_MAX)
        result = err_set(err, ERR_PROTOCOL, "an execution id that is too long");
    if (result == 0)
        result = sandbox_end_strings(&decoded.envp, err);
    if (result != 0) {
        sandbox_exec_done(&decoded);
        return result;
    }
    *exec = decoded;
    return 0;
}

void sandbox_exec_done(struct sandbox_exec *exec)
{
    if (!exec)
        return;
    free(exec->argv);
    free(exec->envp);
    exec->argv = NULL;
    exec->envp = NULL;
    exec->argc = 0;
    exec->envc = 0;
}

int sandbox_exit_encode(const struct sandbox_exit *exit, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_u64(&writer, EXIT_CODE, exit->exit_code);
    tlv_put_u64(&writer, EXIT_CAUSE, (uint64_t)exit->cause);
    tlv_put_u64(&writer, EXIT_LIMITS_HIT, exit->limits_hit);
    tlv_put_u64(&writer, EXIT_CPU_US, exit->cpu_us);
    tlv_put_u64(&writer, EXIT_WALL_US, exit->wall_us);
    tlv_put_u64(&writer, EXIT_MAX_RSS, exit->max_rss_bytes);
    tlv_put_u64(&writer, EXIT_MEMORY_PEAK, exit->memory_peak_bytes);
    tlv_put_u64(&writer, EXIT_STDOUT_BYTES, exit->stdout_bytes);
    tlv_put_u64(&writer, EXIT_STDERR_BYTES, exit->stderr_bytes);
    tlv_put_u64(&writer, EXIT_PIDS_PEAK, exit->pids_peak);
    tlv_put_str(&writer, EXIT_START_ERROR, exit->start_error ? exit->start_error : "");
    tlv_put_u64(&writer, EXIT_MESSAGE_BYTES, exit->message_bytes);
    tlv_put_u64(&writer, EXIT_MESSAGES_DROPPED, exit->messages_dropped);
    tlv_put_u64(&writer, EXIT_STATE_LOST, exit->state_lost);
    return tlv_end(&writer, err);
}

static int exit_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_exit *exit = out;
    uint32_t cause = 0;
    int status = 0;
    switch ((enum exit_tag)field->tag) {
    case EXIT_CODE:
        return tlv_u32(field, &exit->exit_code, err);
    case EXIT_CAUSE:
        status = tlv_u32(field, &cause, err);
        if (status == 0 && cause >= KILL_CAUSE_COUNT)
            status = err_set(err, ERR_PROTOCOL, "kill cause %u", cause);
        if (status == 0)
            exit->cause = (enum kill_cause)cause;
        return status;
    case EXIT_LIMITS_HIT:
        return tlv_u32(field, &exit->limits_hit, err);
    case EXIT_CPU_US:
        return tlv_u64(field, &exit->cpu_us, err);
    case EXIT_WALL_US:
        return tlv_u64(field, &exit->wall_us, err);
    case EXIT_MAX_RSS:
        return tlv_u64(field, &exit->max_rss_bytes, err);
    case EXIT_MEMORY_PEAK:
        return tlv_u64(field, &exit->memory_peak_bytes, err);
    case EXIT_STDOUT_BYTES:
        return tlv_u64(field, &exit->stdout_bytes, err);
    case EXIT_STDERR_BYTES:
        return tlv_u64(field, &exit->stderr_bytes, err);
    case EXIT_PIDS_PEAK:
        return tlv_u64(field, &exit->pids_peak, err);
    case EXIT_START_ERROR:
        return tlv_str(field, &exit->start_error, err);
    case EXIT_MESSAGE_BYTES:
        return tlv_u64(field, &exit->message_bytes, err);
    case EXIT_MESSAGES_DROPPED:
        return tlv_bool(field, &exit->messages_dropped, err);
    case EXIT_STATE_LOST:
        return tlv_bool(field, &exit->state_lost, err);
    }
    return 0;
}

int sandbox_exit_decode(const void *payload, size_t size, struct sandbox_exit *exit,
                        struct err *err)
{
    struct sandbox_exit decoded = {.start_error = ""};
    int result = sandbox_decode_fields(payload, size, exit_field, &decoded, err);
    if (result != 0)
        return result;
    if (decoded.exit_code > 255)
        return err_set(err, ERR_PROTOCOL, "exit code %u", decoded.exit_code);
    *exit = decoded;
    return 0;
}

int sandbox_put_file_encode(const struct sandbox_put_file *put, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_str(&writer, PUT_PATH, put->path);
    tlv_put_u64(&writer, PUT_MODE, put->mode);
    return tlv_end(&writer, err);
}

static int check_path(const char *path, struct err *err)
{
    if (path[0] == '\0' || strlen(path) >= SANDBOX_PATH_MAX)
        return err_set(err, ERR_PROTOCOL, "a file without a usable path");
    return 0;
}

static int put_file_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_put_file *put = out;
    if (field->tag == PUT_PATH)
        return tlv_str(field, &put->path, err);
    return field->tag == PUT_MODE ? tlv_u32(field, &put->mode, err) : 0;
}

int sandbox_put_file_decode(const void *payload, size_t size, struct sandbox_put_file *put,
                            struct err *err)
{
    struct sandbox_put_file decoded = {.path = "", .mode = 0644};
    int result = sandbox_decode_fields(payload, size, put_file_field, &decoded, err);
    if (result == 0)
        result = check_path(decoded.path, err);
    if (result == 0 && (decoded.mode & ~0777U) != 0)
        result = err_set(err, ERR_PROTOCOL, "file mode %o", decoded.mode);
    if (result == 0)
        *put = decoded;
    return result;
}

int sandbox_get_file_encode(const struct sandbox_get_file *get, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_str(&writer, GET_PATH, get->path);
    tlv_put_u64(&writer, GET_OFFSET, get->offset);
    tlv_put_u64(&writer, GET_SIZE, get->size_bytes);
    tlv_put_u64(&writer, GET_INFO, (uint64_t)get->info);
    return tlv_end(&writer, err);
}

static int get_file_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_get_file *get = out;
    if (field->tag == GET_PATH)
        return tlv_str(field, &get->path, err);
    if (field->tag == GET_OFFSET)
        return tlv_u64(field, &get->offset, err);
    if (field->tag == GET_SIZE)
        return tlv_u64(field, &get->size_bytes, err);
    if (field->tag != GET_INFO)
        return 0;
    uint32_t info = 0;
    int result = tlv_u32(field, &info, err);
    if (result == 0 && info >= SANDBOX_INFO_COUNT)
        result = err_set(err, ERR_PROTOCOL, "a file with information %u", info);
    if (result == 0)
        get->info = (enum sandbox_get_info)info;
    return result;
}

int sandbox_get_file_decode(const void *payload, size_t size, struct sandbox_get_file *get,
                            struct err *err)
{
    struct sandbox_get_file decoded = {.path = ""};
    int result = sandbox_decode_fields(payload, size, get_file_field, &decoded, err);
    if (result == 0)
        result = check_path(decoded.path, err);
    if (result == 0 && decoded.offset > INT64_MAX)
        result = err_set(err, ERR_PROTOCOL, "a file offset out of range");
    if (result == 0)
        *get = decoded;
    return result;
}

void sandbox_file_info_encode(const struct sandbox_file_info *info,
                              uint8_t out[static SANDBOX_FILE_INFO_SIZE])
{
    const uint64_t words[] = {info->size_bytes, info->inode, (uint64_t)info->changed_ns,
                              (uint64_t)info->modified_ns};
    for (size_t i = 0; i < SANDBOX_FILE_INFO_SIZE; i++)
        out[i] = (uint8_t)(words[i / 8] >> (i % 8 * 8));
}

void sandbox_file_info_decode(const uint8_t data[static SANDBOX_FILE_INFO_SIZE],
                              struct sandbox_file_info *out)
{
    uint64_t words[SANDBOX_FILE_INFO_SIZE / 8] = {0};
    for (size_t i = 0; i < SANDBOX_FILE_INFO_SIZE; i++)
        words[i / 8] |= (uint64_t)data[i] << (i % 8 * 8);
    *out = (struct sandbox_file_info){.size_bytes = words[0],
                                      .inode = words[1],
                                      .changed_ns = (int64_t)words[2],
                                      .modified_ns = (int64_t)words[3]};
}

int sandbox_done_encode(const struct sandbox_done *done, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_u64(&writer, DONE_ERRNO, (uint64_t)done->sys_errno);
    tlv_put_u64(&writer, DONE_SIZE, done->size_bytes);
    return tlv_end(&writer, err);
}

static int done_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_done *done = out;
    uint32_t number = 0;
    if (field->tag == DONE_SIZE)
        return tlv_u64(field, &done->size_bytes, err);
    if (field->tag != DONE_ERRNO)
        return 0;
    int result = tlv_u32(field, &number, err);
    if (result == 0 && number > 4095)
        result = err_set(err, ERR_PROTOCOL, "errno %u", number);
    if (result == 0)
        done->sys_errno = (int32_t)number;
    return result;
}

int sandbox_done_decode(const void *payload, size_t size, struct sandbox_done *done,
                        struct err *err)
{
    struct sandbox_done decoded = {0};
    int result = sandbox_decode_fields(payload, size, done_field, &decoded, err);
    if (result == 0)
        *done = decoded;
    return result;
}
