/* Owns what has ended and is not freed yet. */
#include "egress/proxy.h"

#include <stdlib.h>

void proxy_bury(struct proxy *proxy, struct dead *dead)
{
    dead->next = proxy->dead;
    proxy->dead = dead;
}

void proxy_free_dead(struct proxy *proxy)
{
    while (proxy->dead) {
        struct dead *dead = proxy->dead;
        proxy->dead = dead->next;
        free(dead);
    }
}
