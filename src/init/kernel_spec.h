/* What the language kernel of a sandbox is to be: the KERNEL frame that was taken last. */
#ifndef BERTH_INIT_KERNEL_SPEC_H
#define BERTH_INIT_KERNEL_SPEC_H

#include <stdbool.h>
#include <stddef.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/tlv.h"

struct kernel_spec {
    struct buf payload; /* of the frame; empty: there was none */
    bool lines;         /* the kernel speaks lines */
    bool owed; /* the kernel that lives was started with other variables: its first run brings these
                */
};

enum kernel_likeness {
    KERNEL_SAME,
    KERNEL_SIMILAR, /* the same program and input, other variables */
    KERNEL_DIFFERENT,
};

void kernel_spec_init(struct kernel_spec *spec);

/* Takes the payload of a KERNEL frame, which decodes. 0 or an errno. */
int kernel_spec_set(struct kernel_spec *spec, const void *payload, size_t size);
bool kernel_spec_is_set(const struct kernel_spec *spec);

/* How another such payload differs; of one that is set. */
enum kernel_likeness kernel_spec_compare(const struct kernel_spec *spec, const void *payload,
                                         size_t size);

/* Whether such a payload, which decodes, asks for a kernel that speaks lines. */
bool kernel_spec_has_lines(const void *payload, size_t size);

/* Puts the variables into the body of a RUN (wire/kernel_msg.h). A variable that only the kernel's
 * first words had stays: a RUN has no way to take one away. */
int kernel_spec_put_variables(const struct kernel_spec *spec, struct tlv_writer *writer,
                              struct err *err);
/* The same as lines for one that speaks those. */
int kernel_spec_put_lines(const struct kernel_spec *spec, struct buf *lines, struct err *err);

#endif
