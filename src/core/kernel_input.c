/* Owns the compiled forms of kernels. */
#include "core/kernel_input.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "core/core_internal.h"
#include "engine/channel.h"
#include "lang/lang.h"
#include "wire/frame.h"

#define COMPILE_MS 20000
#define INPUT_MAX (448U * 1024U) /* all of it has to fit into a frame, with argv and variables */

struct kernel_input {
    const struct lang *lang;
    const struct engine_slot *slot; /* each has a "host" of its own */
    struct buf data;                /* empty: it could not be made */
    struct kernel_input *next;
};

static struct kernel_input *find_locked(struct core *core, const struct lang *lang,
                                        const struct plan *plan)
{
    struct kernel_input *input = core->kernel_inputs;
    while (input && (input->lang != lang || input->slot != plan->slot))
        input = input->next;
    return input;
}

static int on_output(void *context, int stream, const uint8_t *data, size_t size, struct err *err)
{
    struct buf *out = context;
    return stream == STREAM_STDOUT ? buf_append(out, data, size, err) : 0;
}

/* Runs the compiler on a channel to a fresh sandbox. */
static int compile_on(struct channel *channel, const struct lang *lang, const struct plan *plan,
                      int cancel_fd, struct buf *out, struct err *err)
{
    const struct embedded_file *text = lang_kernel_source(lang);
    struct channel_exit end;
    const char *argv[LANG_ARGS_MAX + 1] = {NULL};
    size_t argc = 0;
    for (; argc < LANG_ARGS_MAX && lang->kernel_compile[argc]; argc++)
        argv[argc] = lang->kernel_compile[argc];
    const struct channel_exec exec = {
        .exec = {.execution_id = "kernel",
                 .cwd = "/workspace",
                 .argv = argv,
                 .argc = argc,
                 .envp = plan->envp,
                 .envc = plan->envc,
                 .timeout_ms = COMPILE_MS,
                 .keep_bytes = INPUT_MAX,
                 .output_max_bytes = 4U * INPUT_MAX},
        .stdin_data = text->data,
        .stdin_size = text->size,
        .watch = {.cancel_fd = cancel_fd,
                  .interrupt_fd = -1,
                  .gone_fd = -1,
                  .deadline_ns = clock_now_ns() + 2 * COMPILE_MS * CLOCK_NS_PER_MS,
                  .output = on_output,
                  .context = out}};
    int result = channel_exec(channel, &exec, &end, err);
    if (result == 0 && (end.exit.exit_code != 0 || end.exit.stdout_bytes != out->size))
        result =
            err_set(err, ERR_INTERNAL, "exit code %u, %zu bytes", end.exit.exit_code, out->size);
    return result == 0 ? buf_append(out, text->data, text->size, err) : result;
}

static int compile(struct core *core, const struct lang *lang, const struct plan *plan,
                   int cancel_fd, struct buf *out, struct err *err)
{
    char id[SANDBOX_ID_MAX + 1];
    uint8_t nonce[SANDBOX_NONCE_SIZE];
    FD_AUTO int fd = -1;
    struct channel *channel = NULL;
    int result = box_create_ahead(core, plan, cancel_fd, id, &fd, nonce, err);
    if (result != 0)
        return result;
    result = channel_open(fd_take(&fd), nonce, &channel, err);
    if (result == 0)
        result = compile_on(channel, lang, plan, cancel_fd, out, err);
    box_destroy(core, id);
    channel_close(channel);
    return result;
}

void kernel_input_prepare(struct core *core, const struct lang *lang, const struct plan *plan,
                          int cancel_fd)
{
    struct err failure = ERR_INIT;
    if (!lang->kernel || !lang->kernel_compile[0] || strcmp(plan->image, "host") != 0)
        return;
    (void)pthread_mutex_lock(&core->lock);
    bool known = find_locked(core, lang, plan) != NULL;
    (void)pthread_mutex_unlock(&core->lock);
    struct kernel_input *input = known ? NULL : calloc(1, sizeof(*input));
    if (!input)
        return;
    input->lang = lang;
    input->slot = plan->slot;
    buf_init(&input->data, INPUT_MAX);
    if (compile(core, lang, plan, cancel_fd, &input->data, &failure) != 0) {
        log_info("the kernel of %s is not compiled: %s", lang->name, failure.message);
        buf_done(&input->data);
    }
    if (failure.kind == ERR_UNAVAILABLE || failure.kind == ERR_CLOSED) { /* the next one tries */
        free(input);
        return;
    }
    (void)pthread_mutex_lock(&core->lock);
    known = find_locked(core, lang, plan) != NULL;
    if (!known) {
        input->next = core->kernel_inputs;
        core->kernel_inputs = input;
    }
    (void)pthread_mutex_unlock(&core->lock);
    if (known) {
        buf_done(&input->data);
        free(input);
    }
}

void kernel_input_get(struct core *core, const struct lang *lang, const struct plan *plan,
                      const void **out_data, size_t *out_size)
{
    const struct embedded_file *text = lang_kernel_source(lang);
    *out_data = text->data;
    *out_size = text->size;
    if (strcmp(plan->image, "host") != 0)
        return;
    (void)pthread_mutex_lock(&core->lock);
    const struct kernel_input *input = find_locked(core, lang, plan);
    if (input && input->data.size > 0) {
        *out_data = input->data.data;
        *out_size = input->data.size;
    }
    (void)pthread_mutex_unlock(&core->lock);
}

void kernel_input_free_all(struct core *core)
{
    while (core->kernel_inputs) {
        struct kernel_input *next = core->kernel_inputs->next;
        buf_done(&core->kernel_inputs->data);
        free(core->kernel_inputs);
        core->kernel_inputs = next;
    }
}
