/* Points at which tests end a process, as SIGKILL at that moment would.
 *
 * Nothing happens unless BERTH_TESTING=1 and BERTH_FAULT names the point: "NAME", or "NAME:N" for
 * the Nth time that this process reaches it. A process that the fault ended reaches it again after
 * its restart: BERTH_FAULT_ONCE=FILE makes it strike only once. FILE is there and empty before; who
 * strikes writes a byte to it that is not 0, and removes it if it may. FILE has to be writable for
 * every process that is to strike. */
#ifndef BERTH_BASE_FAULT_H
#define BERTH_BASE_FAULT_H

#include <stdbool.h>

/* Whether BERTH_TESTING=1: what is for tests alone asks this. */
bool fault_is_testing(void);

/* Reads the environment; without it no point strikes. */
void fault_init(void);

/* The same for a process without an environment: text as in BERTH_FAULT, copied. "" or NULL: none.
 */
void fault_set(const char *text);

/* What fault_init() or fault_set() set, "" when nothing: to pass it on. */
const char *fault_text(void);

/* The same for a process that can't see FILE: "" when the point does not begin with prefix. Counts
 * as the strike of BERTH_FAULT_ONCE. */
const char *fault_text_for(const char *prefix);

/* Ends the process when name is the point that was set. */
void fault_point(const char *name);

#endif
