/* One file written or read for the server, in a child of init with the identity of the code.
 *
 * Paths are resolved below the root of the sandbox by openat2(2) without magic links; relative ones
 * begin at /workspace. What the code plants there, swaps meanwhile or links to can lead to another
 * file that the code itself could open, and to nothing else. The functions never return. */
#ifndef BERTH_INIT_FILE_H
#define BERTH_INIT_FILE_H

#include "init/child.h"
#include "wire/init_config.h"
#include "wire/sandbox.h"

/* Writes standard input to put->path, a regular file of the root's own filesystem; missing folders
 * are made. Exits with 0 or the errno of what failed. */
_Noreturn void file_put(const struct init_config *config, const struct sandbox_put_file *put,
                        const struct child_pipes *pipes);

/* Writes the asked range of get->path to standard output, after its struct sandbox_file_info where
 * that is asked for: a regular file of any mount but the kernel's own (/proc and its like). What is
 * appended after the file was opened is left out, so that a file that grows has an end. Exits with
 * 0 or the errno of what failed. */
_Noreturn void file_get(const struct init_config *config, const struct sandbox_get_file *get,
                        const struct child_pipes *pipes);

#endif
