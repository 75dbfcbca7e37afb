/* Owns the words of the kernel. */
#include "init/kernel_spec.h"

#include <errno.h>
#include <string.h>

#include "init/lines.h"
#include "wire/frame.h"
#include "wire/kernel_msg.h"
#include "wire/sandbox.h"

void kernel_spec_init(struct kernel_spec *spec)
{
    buf_init(&spec->payload, FRAME_PAYLOAD_MAX);
    spec->owed = spec->lines = false;
}

int kernel_spec_set(struct kernel_spec *spec, const void *payload, size_t size)
{
    spec->payload.size = 0;
    spec->lines = kernel_spec_has_lines(payload, size);
    return buf_append(&spec->payload, payload, size, NULL) == 0 ? 0 : ENOMEM;
}

bool kernel_spec_has_lines(const void *payload, size_t size)
{
    struct sandbox_kernel kernel;
    if (sandbox_kernel_decode(payload, size, &kernel, NULL) != 0)
        return false;
    bool lines = kernel.protocol == SANDBOX_KERNEL_LINES;
    sandbox_kernel_done(&kernel);
    return lines;
}

bool kernel_spec_is_set(const struct kernel_spec *spec)
{
    return spec->payload.size > 0;
}

static bool is_same_program(const struct sandbox_kernel *one, const struct sandbox_kernel *other)
{
    if (strcmp(one->cwd, other->cwd) != 0 || one->argc != other->argc ||
        one->input_size != other->input_size || one->protocol != other->protocol)
        return false;
    for (size_t i = 0; i < one->argc; i++) {
        if (strcmp(one->argv[i], other->argv[i]) != 0)
            return false;
    }
    return one->input_size == 0 || memcmp(one->input, other->input, one->input_size) == 0;
}

enum kernel_likeness kernel_spec_compare(const struct kernel_spec *spec, const void *payload,
                                         size_t size)
{
    struct sandbox_kernel ours = {0};
    struct sandbox_kernel theirs = {0};
    enum kernel_likeness likeness = KERNEL_DIFFERENT;
    if (spec->payload.size == size && memcmp(spec->payload.data, payload, size) == 0)
        return KERNEL_SAME;
    if (sandbox_kernel_decode(spec->payload.data, spec->payload.size, &ours, NULL) == 0 &&
        sandbox_kernel_decode(payload, size, &theirs, NULL) == 0 && is_same_program(&ours, &theirs))
        likeness = KERNEL_SIMILAR;
    sandbox_kernel_done(&ours);
    sandbox_kernel_done(&theirs);
    return likeness;
}

int kernel_spec_put_variables(const struct kernel_spec *spec, struct tlv_writer *writer,
                              struct err *err)
{
    struct sandbox_kernel kernel;
    int result = sandbox_kernel_decode(spec->payload.data, spec->payload.size, &kernel, err);
    if (result != 0)
        return result;
    for (size_t i = 0; i < kernel.envc; i++)
        tlv_put_str(writer, KERNEL_TAG_ENV, kernel.envp[i]);
    sandbox_kernel_done(&kernel);
    return 0;
}

int kernel_spec_put_lines(const struct kernel_spec *spec, struct buf *lines, struct err *err)
{
    struct sandbox_kernel kernel;
    int result = sandbox_kernel_decode(spec->payload.data, spec->payload.size, &kernel, err);
    if (result != 0)
        return result;
    for (size_t i = 0; result == 0 && i < kernel.envc; i++)
        result = lines_put_variable(lines, kernel.envp[i], err);
    sandbox_kernel_done(&kernel);
    return result;
}
