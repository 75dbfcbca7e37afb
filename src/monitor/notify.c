/* Owns the one message each way of life: up, and on the way down. Refuses addresses that are
 * neither a path nor abstract. */
#include "monitor/notify.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/log.h"

void notify_init(struct notify *notify)
{
    memset(notify, 0, sizeof(*notify));
    const char *name = getenv("NOTIFY_SOCKET");
    size_t size = name ? strlen(name) : 0;
    if (size > 1 && size < sizeof(notify->address.sun_path) && (*name == '/' || *name == '@')) {
        notify->address.sun_family = AF_UNIX;
        memcpy(notify->address.sun_path, name, size);
        if (*name == '@')
            notify->address.sun_path[0] = '\0';
        notify->address_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + size);
    }
    (void)unsetenv("NOTIFY_SOCKET");
}

void notify_send(const struct notify *notify, const char *text)
{
    if (notify->address_size == 0)
        return;
    FD_AUTO int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    ssize_t size = strlen(text) > 0 && fd >= 0
                       ? sendto(fd, text, strlen(text), MSG_NOSIGNAL,
                                (const struct sockaddr *)&notify->address, notify->address_size)
                       : -1;
    if (size < 0)
        log_warn("tell the service manager \"%s\": %s", text, strerror(errno));
}
