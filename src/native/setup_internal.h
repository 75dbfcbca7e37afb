/* What the ways of setting up share. For setup*.c only; all of it runs in the stage, and ends it
 * with a word to the engine when something fails. */
#ifndef BERTH_NATIVE_SETUP_INTERNAL_H
#define BERTH_NATIVE_SETUP_INTERNAL_H

#include "native/setup.h"

/* What failed goes to the engine: a step with errno, or an error. */
_Noreturn void setup_fail(const struct setup *setup, const char *step);
_Noreturn void setup_fail_err(const struct setup *setup, const struct err *err);

/* Where a mount goes, below the working directory: opened name by name, through no link. */
int setup_open_target(const struct setup *setup, const char *target);
void setup_attach(const struct setup *setup, int mount_fd, const char *target);

/* Makes a mount at the working directory the working directory. */
void setup_enter_root(const struct setup *setup, int mount_fd);
/* The same with a new tmpfs, the root of a plain sandbox. */
void setup_make_root(const struct setup *setup);
/* Takes the engine's mounts and attaches them below the working directory; true: there are more. */
bool setup_attach_mounts(const struct setup *setup);

/* The working directory becomes the root; the host's is gone. */
void setup_leave_host(const struct setup *setup);

/* setup_runsc.c: all that follows the taking of ids, for a sandbox of that runtime. */
_Noreturn void setup_run_runsc(const struct setup *setup, int proc_fd);

#endif
