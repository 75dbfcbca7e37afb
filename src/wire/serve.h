/* The other end of peer.h: what the engines and berth-egress, which serve one server, share. None
 * of it blocks. */
#ifndef BERTH_WIRE_SERVE_H
#define BERTH_WIRE_SERVE_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

struct engine_msg;

/* Takes a connection of client_uid or of root, others are refused. False: there is none. The
 * caller drops the one before: a new server is there because the old one died. */
bool serve_accept(int listen_fd, uid_t client_uid, int *out_fd);

/* Sends a message of the engine protocol; passed_fd goes along, -1 for none. False, with a line in
 * the log: the server does not take it, and is to be dropped. */
bool serve_send(int client_fd, const struct engine_msg *msg, int passed_fd);

/* Receives one. Returns 1 with a message (engine_msg_done()) and the descriptor that came along, -1
 * for none, which is the caller's; 0: nothing is there; negative: the server is gone, or was cut
 * off for what it sent. */
int serve_receive(int client_fd, struct engine_msg *msg, int *out_fd);

#endif
