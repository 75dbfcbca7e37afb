/* Who init is, and who the code is: user namespaces, ids, capabilities, no_new_privs, filters.
 *
 * Sources: user_namespaces(7), capabilities(7), seccomp(2). */
#ifndef BERTH_INIT_IDENTITY_H
#define BERTH_INIT_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "wire/init_config.h"

/* Gives up what init does not need to serve: every capability, and the calls that neither it nor
 * the code makes. The profile container must be without no_new_privs, which children inherit. What
 * stays is the ownership of the inner user namespace, which alone lets init enter it, and signal
 * the code. Call once, with CAP_SYS_ADMIN in init's own namespace, before a byte of a peer is read.
 */
int identity_shed(enum init_profile profile, struct err *err);

/* The same in a container that somebody else made, as its root: there is no inner user namespace,
 * so that init keeps what it takes to become the code and to signal it, which the code does not get
 * in profile strict. In profile container, whose root is init's own user, it has what init has. The
 * filter is init's where it can be installed: with no_new_privs, or CAP_SYS_ADMIN. */
int identity_shed_carried(enum init_profile profile, struct err *err);

/* An id of the code as init sees it. */
uid_t identity_seen(const struct init_config *config, uint32_t id);

/* In a fresh child: becomes the code. Enters the inner user namespace, where there is one, takes
 * config->uid and config->gid and what the profile leaves of capabilities; there is no way back.
 * with_filter adds the profile's seccomp filter. Returns NULL, or what failed, with errno. */
const char *identity_become_code(const struct init_config *config, bool with_filter);

#endif
