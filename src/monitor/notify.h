/* What the service manager is told: the protocol of sd_notify(3), one datagram a message. */
#ifndef BERTH_MONITOR_NOTIFY_H
#define BERTH_MONITOR_NOTIFY_H

#include <sys/socket.h>
#include <sys/un.h>

struct notify {
    struct sockaddr_un address;
    socklen_t address_size; /* 0: nobody wants to know */
};

/* Takes NOTIFY_SOCKET out of the environment, so that no child speaks for us. Before any thread. */
void notify_init(struct notify *notify);

/* Sends text ("READY=1"). Does not block; a manager that can't be reached is not our failure, the
 * log says so. */
void notify_send(const struct notify *notify, const char *text);

#endif
