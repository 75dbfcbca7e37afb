/* The listening sockets, which outlive every restart of the processes that accept on them. */
#ifndef BERTH_MONITOR_LISTEN_H
#define BERTH_MONITOR_LISTEN_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

/* Listens for HTTP on host and port; *out_port is the real port. Waits up to 5 s for a port that a
 * dying predecessor still holds. ERR_NOT_FOUND: the host has no address, or none yet; ERR_CONFLICT:
 * the port is taken. */
int listen_tcp(const char *host, uint16_t port, int *out_fd, uint16_t *out_port, struct err *err);

/* Listens for clients of the engine, or of egress, on a SEQPACKET socket called name in the folder
 * dir_fd, mode 0660, owned by us and gid. What has that name already is replaced, once nobody
 * accepts on it any more (up to 5 s: the engine of a killed predecessor). Paths may be longer than
 * sun_path. */
int listen_process(int dir_fd, const char *name, gid_t gid, int *out_fd, struct err *err);

#endif
