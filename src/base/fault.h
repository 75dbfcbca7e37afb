/* Points at which tests end a process, as SIGKILL at that moment would.
 *
 * Nothing happens unless BERTH_TESTING=1 and BERTH_FAULT names the point: "NAME", or "NAME:N" for
 * the Nth time that this process reaches it. A process that the fault ended reaches it again after
 * its restart: BERTH_FAULT_ONCE=FILE makes it strike only while FILE exists, and removes FILE. */
#ifndef BERTH_BASE_FAULT_H
#define BERTH_BASE_FAULT_H

/* Reads the environment; without it no point strikes. */
void fault_init(void);

/* The same for a process without an environment: text as in BERTH_FAULT, copied. "" or NULL: none.
 */
void fault_set(const char *text);

/* What fault_init() or fault_set() set, "" when nothing: to pass it on. */
const char *fault_text(void);

/* Ends the process when name is the point that was set. */
void fault_point(const char *name);

#endif
