/* What a language's kernel reads when it starts: its text, with a compiled form in front of it once
 * that was made.
 *
 * The interpreter of an image compiles it, in a sandbox, once for each server. What comes out is
 * bytes of that image, so it is believed by that image alone; it is made for "host" only, whose
 * files are the operator's own. */
#ifndef BERTH_CORE_KERNEL_INPUT_H
#define BERTH_CORE_KERNEL_INPUT_H

#include <stddef.h>

struct core;
struct lang;
struct plan;

/* Compiles it, unless that was tried before. Blocks; a failure is logged and costs time only. */
void kernel_input_prepare(struct core *core, const struct lang *lang, const struct plan *plan,
                          int cancel_fd);

/* What to give a kernel of lang in the plan's image; lives as long as the core. */
void kernel_input_get(struct core *core, const struct lang *lang, const struct plan *plan,
                      const void **out_data, size_t *out_size);

void kernel_input_free_all(struct core *core);

#endif
