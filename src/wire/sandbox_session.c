/* Owns the field tags of kernels, held executions, timers, limits and the network. Tags are never
 * reused for something else. */
#include <stdlib.h>
#include <string.h>

#include "wire/sandbox.h"
#include "wire/sandbox_fields.h"
#include "wire/tlv.h"

enum kernel_tag { KERNEL_CWD = 1, KERNEL_ARG, KERNEL_ENV, KERNEL_INPUT, KERNEL_PROTOCOL };
enum run_tag {
    RUN_ID = 1,
    RUN_MODE,
    RUN_FILE,
    RUN_ENV,
    RUN_TIMEOUT_MS,
    RUN_GRACE_MS,
    RUN_KEEP_BYTES,
    RUN_OUTPUT_MAX_BYTES,
    RUN_MESSAGES_MAX_BYTES,
    RUN_HOLD
};
enum attach_tag { ATTACH_ID = 1, ATTACH_AFTER };
/* An entry begins with its id. */
enum listed_tag {
    LISTED_ID = 1,
    LISTED_ENDED,
    LISTED_EVENTS,
    LISTED_KERNEL_LIVES,
    LISTED_LIFETIME_MS,
    LISTED_IDLE_MS
};
enum timers_tag { TIMERS_LIFETIME_MS = 1, TIMERS_IDLE_MS, TIMERS_ORPHAN_MS };
enum limits_tag { LIMITS_PIDS = 1, LIMITS_FILE_SIZE, LIMITS_OPEN_FILES };
enum network_tag { NETWORK_MODE = 1 };

/* ---- strings ---- */

int sandbox_push_string(const char ***array, size_t *count, const char *text, struct err *err)
{
    if (*count >= SANDBOX_ARGS_MAX)
        return err_set(err, ERR_PROTOCOL, "more than %d arguments or variables", SANDBOX_ARGS_MAX);
    if ((*count & (*count + 1)) == 0) { /* 0, 1, 3, 7, ...: the array is full */
        const char **grown = reallocarray(*array, 2 * (*count + 1), sizeof(*grown));
        if (!grown)
            return err_set(err, ERR_INTERNAL, "no memory for arguments");
        *array = grown;
    }
    (*array)[(*count)++] = text;
    (*array)[*count] = NULL;
    return 0;
}

int sandbox_end_strings(const char ***array, struct err *err)
{
    if (*array)
        return 0;
    *array = calloc(1, sizeof(**array));
    return *array ? 0 : err_set(err, ERR_INTERNAL, "no memory for variables");
}

static int field_string(const struct tlv_field *field, const char ***array, size_t *count,
                        struct err *err)
{
    const char *text = NULL;
    int result = tlv_str(field, &text, err);
    return result != 0 ? result : sandbox_push_string(array, count, text, err);
}

static int check_id(const char *execution_id, struct err *err)
{
    size_t size = strlen(execution_id);
    if (size == 0 || size > SANDBOX_ID_MAX)
        return err_set(err, ERR_PROTOCOL, "an execution id of %zu bytes", size);
    return 0;
}

/* ---- kernels ---- */

int sandbox_kernel_encode(const struct sandbox_kernel *kernel, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_str(&writer, KERNEL_CWD, kernel->cwd);
    for (size_t i = 0; i < kernel->argc; i++)
        tlv_put_str(&writer, KERNEL_ARG, kernel->argv[i]);
    for (size_t i = 0; i < kernel->envc; i++)
        tlv_put_str(&writer, KERNEL_ENV, kernel->envp[i]);
    if (kernel->input_size > 0)
        tlv_put_bytes(&writer, KERNEL_INPUT, kernel->input, kernel->input_size);
    if (kernel->protocol != SANDBOX_KERNEL_FRAMES)
        tlv_put_u64(&writer, KERNEL_PROTOCOL, (uint64_t)kernel->protocol);
    return tlv_end(&writer, err);
}

static int kernel_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_kernel *kernel = out;
    uint32_t protocol = 0;
    int status = 0;
    switch ((enum kernel_tag)field->tag) {
    case KERNEL_CWD:
        return tlv_str(field, &kernel->cwd, err);
    case KERNEL_ARG:
        return field_string(field, &kernel->argv, &kernel->argc, err);
    case KERNEL_ENV:
        return field_string(field, &kernel->envp, &kernel->envc, err);
    case KERNEL_INPUT:
        kernel->input = field->data;
        kernel->input_size = field->size;
        return 0;
    case KERNEL_PROTOCOL:
        status = tlv_u32(field, &protocol, err);
        if (status == 0 && protocol > SANDBOX_KERNEL_LINES)
            status = err_set(err, ERR_PROTOCOL, "protocol %u of a kernel", protocol);
        if (status == 0)
            kernel->protocol = (enum sandbox_kernel_protocol)protocol;
        return status;
    }
    return 0;
}

int sandbox_kernel_decode(const void *payload, size_t size, struct sandbox_kernel *kernel,
                          struct err *err)
{
    struct sandbox_kernel decoded = {.cwd = "/"};
    int result = sandbox_decode_fields(payload, size, kernel_field, &decoded, err);
    if (result == 0 && decoded.argc == 0)
        result = err_set(err, ERR_PROTOCOL, "a kernel without a program");
    if (result == 0)
        result = sandbox_end_strings(&decoded.envp, err);
    if (result != 0) {
        sandbox_kernel_done(&decoded);
        return result;
    }
    *kernel = decoded;
    return 0;
}

void sandbox_kernel_done(struct sandbox_kernel *kernel)
{
    if (!kernel)
        return;
    free(kernel->argv);
    free(kernel->envp);
    kernel->argv = kernel->envp = NULL;
    kernel->argc = kernel->envc = 0;
}

/* ---- runs ---- */

int sandbox_run_encode(const struct sandbox_run *run, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_str(&writer, RUN_ID, run->execution_id);
    tlv_put_u64(&writer, RUN_MODE, (uint64_t)run->mode);
    tlv_put_str(&writer, RUN_FILE, run->file);
    for (size_t i = 0; i < run->envc; i++)
        tlv_put_str(&writer, RUN_ENV, run->envp[i]);
    tlv_put_u64(&writer, RUN_TIMEOUT_MS, run->timeout_ms);
    tlv_put_u64(&writer, RUN_GRACE_MS, run->grace_ms);
    tlv_put_u64(&writer, RUN_KEEP_BYTES, run->keep_bytes);
    tlv_put_u64(&writer, RUN_OUTPUT_MAX_BYTES, run->output_max_bytes);
    tlv_put_u64(&writer, RUN_MESSAGES_MAX_BYTES, run->messages_max_bytes);
    tlv_put_u64(&writer, RUN_HOLD, run->hold);
    return tlv_end(&writer, err);
}

static int run_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_run *run = out;
    uint32_t mode = 0;
    int status = 0;
    switch ((enum run_tag)field->tag) {
    case RUN_ID:
        return tlv_str(field, &run->execution_id, err);
    case RUN_MODE:
        status = tlv_u32(field, &mode, err);
        if (status == 0 && mode > SANDBOX_RUN_SCRIPT)
            status = err_set(err, ERR_PROTOCOL, "mode %u of a run", mode);
        if (status == 0)
            run->mode = (enum sandbox_run_mode)mode;
        return status;
    case RUN_FILE:
        return tlv_str(field, &run->file, err);
    case RUN_ENV:
        return field_string(field, &run->envp, &run->envc, err);
    case RUN_TIMEOUT_MS:
        return tlv_u64(field, &run->timeout_ms, err);
    case RUN_GRACE_MS:
        return tlv_u64(field, &run->grace_ms, err);
    case RUN_KEEP_BYTES:
        return tlv_u64(field, &run->keep_bytes, err);
    case RUN_OUTPUT_MAX_BYTES:
        return tlv_u64(field, &run->output_max_bytes, err);
    case RUN_MESSAGES_MAX_BYTES:
        return tlv_u64(field, &run->messages_max_bytes, err);
    case RUN_HOLD:
        return tlv_bool(field, &run->hold, err);
    }
    return 0;
}

int sandbox_run_decode(const void *payload, size_t size, struct sandbox_run *run, struct err *err)
{
    struct sandbox_run decoded = {.execution_id = "",
                                  .file = "",
                                  .keep_bytes = UINT64_MAX,
                                  .output_max_bytes = UINT64_MAX,
                                  .messages_max_bytes = UINT64_MAX};
    int result = sandbox_decode_fields(payload, size, run_field, &decoded, err);
    if (result == 0)
        result = check_id(decoded.execution_id, err);
    if (result == 0)
        result = sandbox_end_strings(&decoded.envp, err);
    if (result != 0) {
        sandbox_run_done(&decoded);
        return result;
    }
    *run = decoded;
    return 0;
}

void sandbox_run_done(struct sandbox_run *run)
{
    if (!run)
        return;
    free(run->envp);
    run->envp = NULL;
    run->envc = 0;
}

/* ---- held executions ---- */

int sandbox_attach_encode(const struct sandbox_attach *attach, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_str(&writer, ATTACH_ID, attach->execution_id);
    tlv_put_u64(&writer, ATTACH_AFTER, attach->after);
    return tlv_end(&writer, err);
}

static int attach_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_attach *attach = out;
    if (field->tag == ATTACH_ID)
        return tlv_str(field, &attach->execution_id, err);
    return field->tag == ATTACH_AFTER ? tlv_u64(field, &attach->after, err) : 0;
}

int sandbox_attach_decode(const void *payload, size_t size, struct sandbox_attach *attach,
                          struct err *err)
{
    struct sandbox_attach decoded = {.execution_id = ""};
    int result = sandbox_decode_fields(payload, size, attach_field, &decoded, err);
    if (result == 0)
        result = check_id(decoded.execution_id, err);
    if (result == 0)
        *attach = decoded;
    return result;
}

int sandbox_listed_encode(const struct sandbox_listed *listed, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    for (size_t i = 0; i < listed->count; i++) {
        tlv_put_str(&writer, LISTED_ID, listed->held[i].execution_id);
        tlv_put_u64(&writer, LISTED_ENDED, listed->held[i].ended);
        tlv_put_u64(&writer, LISTED_EVENTS, listed->held[i].events);
    }
    tlv_put_u64(&writer, LISTED_KERNEL_LIVES, listed->kernel_lives);
    tlv_put_u64(&writer, LISTED_LIFETIME_MS, listed->lifetime_ms);
    tlv_put_u64(&writer, LISTED_IDLE_MS, listed->idle_ms);
    return tlv_end(&writer, err);
}

static int listed_entry(const struct tlv_field *field, struct sandbox_listed *listed,
                        struct err *err)
{
    const char *text = NULL;
    int result = tlv_str(field, &text, err);
    if (result == 0)
        result = check_id(text, err);
    if (result == 0 && listed->count >= sizeof(listed->held) / sizeof(listed->held[0]))
        result = err_set(err, ERR_PROTOCOL, "more than %zu held executions", listed->count);
    if (result == 0)
        memcpy(listed->held[listed->count++].execution_id, text, field->size);
    return result;
}

static int listed_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_listed *listed = out;
    struct sandbox_held *last = listed->count > 0 ? &listed->held[listed->count - 1] : NULL;
    switch ((enum listed_tag)field->tag) {
    case LISTED_ID:
        return listed_entry(field, listed, err);
    case LISTED_ENDED:
        return last ? tlv_bool(field, &last->ended, err)
                    : err_set(err, ERR_PROTOCOL, "an end of no execution");
    case LISTED_EVENTS:
        return last ? tlv_u64(field, &last->events, err)
                    : err_set(err, ERR_PROTOCOL, "events of no execution");
    case LISTED_KERNEL_LIVES:
        return tlv_bool(field, &listed->kernel_lives, err);
    case LISTED_LIFETIME_MS:
        return tlv_u64(field, &listed->lifetime_ms, err);
    case LISTED_IDLE_MS:
        return tlv_u64(field, &listed->idle_ms, err);
    }
    return 0;
}

int sandbox_listed_decode(const void *payload, size_t size, struct sandbox_listed *listed,
                          struct err *err)
{
    struct sandbox_listed decoded = {.lifetime_ms = SANDBOX_NEVER, .idle_ms = SANDBOX_NEVER};
    int result = sandbox_decode_fields(payload, size, listed_field, &decoded, err);
    if (result == 0)
        *listed = decoded;
    return result;
}

/* ---- timers ---- */

int sandbox_timers_encode(const struct sandbox_timers *timers, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_u64(&writer, TIMERS_LIFETIME_MS, timers->lifetime_ms);
    tlv_put_u64(&writer, TIMERS_IDLE_MS, timers->idle_ms);
    tlv_put_u64(&writer, TIMERS_ORPHAN_MS, timers->orphan_ms);
    return tlv_end(&writer, err);
}

static int timers_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_timers *timers = out;
    if (field->tag == TIMERS_LIFETIME_MS)
        return tlv_u64(field, &timers->lifetime_ms, err);
    if (field->tag == TIMERS_IDLE_MS)
        return tlv_u64(field, &timers->idle_ms, err);
    return field->tag == TIMERS_ORPHAN_MS ? tlv_u64(field, &timers->orphan_ms, err) : 0;
}

int sandbox_timers_decode(const void *payload, size_t size, struct sandbox_timers *timers,
                          struct err *err)
{
    struct sandbox_timers decoded = {0};
    int result = sandbox_decode_fields(payload, size, timers_field, &decoded, err);
    if (result == 0)
        *timers = decoded;
    return result;
}

/* ---- limits ---- */

int sandbox_limits_encode(const struct sandbox_limits *limits, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_u64(&writer, LIMITS_PIDS, limits->pids_max);
    tlv_put_u64(&writer, LIMITS_FILE_SIZE, limits->file_size_max);
    tlv_put_u64(&writer, LIMITS_OPEN_FILES, limits->open_files_max);
    return tlv_end(&writer, err);
}

static int limits_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_limits *limits = out;
    if (field->tag == LIMITS_PIDS)
        return tlv_u32(field, &limits->pids_max, err);
    if (field->tag == LIMITS_FILE_SIZE)
        return tlv_u64(field, &limits->file_size_max, err);
    return field->tag == LIMITS_OPEN_FILES ? tlv_u32(field, &limits->open_files_max, err) : 0;
}

int sandbox_limits_decode(const void *payload, size_t size, struct sandbox_limits *limits,
                          struct err *err)
{
    struct sandbox_limits decoded = {0};
    int result = sandbox_decode_fields(payload, size, limits_field, &decoded, err);
    if (result == 0)
        *limits = decoded;
    return result;
}

/* ---- the network ---- */

int sandbox_network_encode(const struct sandbox_network *network, struct buf *out, struct err *err)
{
    struct tlv_writer writer;
    tlv_begin(&writer, out);
    tlv_put_u64(&writer, NETWORK_MODE, (uint64_t)network->mode);
    return tlv_end(&writer, err);
}

static int network_field(const struct tlv_field *field, void *out, struct err *err)
{
    struct sandbox_network *network = out;
    uint32_t mode = 0;
    int result = field->tag == NETWORK_MODE ? tlv_u32(field, &mode, err) : 0;
    if (result == 0 && mode >= SANDBOX_NETWORK_COUNT)
        result = err_set(err, ERR_PROTOCOL, "network mode %u", mode);
    if (result == 0 && field->tag == NETWORK_MODE)
        network->mode = (enum sandbox_network_mode)mode;
    return result;
}

int sandbox_network_decode(const void *payload, size_t size, struct sandbox_network *network,
                           struct err *err)
{
    struct sandbox_network decoded = {.mode = SANDBOX_NETWORK_NONE};
    int result = sandbox_decode_fields(payload, size, network_field, &decoded, err);
    if (result == 0)
        *network = decoded;
    return result;
}
