/* Whether an address is somebody else's: the kernel is asked how it would send there.
 *
 * A list of this host's addresses is not enough: they change, and a route may make any range local
 * (ip-route(8), type local). */
#ifndef BERTH_EGRESS_ROUTE_H
#define BERTH_EGRESS_ROUTE_H

#include "base/err.h"
#include "egress/address.h"

/* 0: the kernel sends it to another host. ERR_FORBIDDEN: it is an address of this host, a broadcast
 * or nothing to send to. ERR_UNAVAILABLE: there is no route. ERR_INTERNAL: it could not be asked;
 * the address is not to be used then. Does not wait for the network. */
int route_check(const union address *address, struct err *err);

#endif
