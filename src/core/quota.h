/* The place where an owner's quota is asked, before anything is made for it. */
#ifndef BERTH_CORE_QUOTA_H
#define BERTH_CORE_QUOTA_H

#include <stdint.h>

#include "base/err.h"

enum quota_kind { QUOTA_EXECUTION, QUOTA_SANDBOX, QUOTA_SESSION };

struct quota_use {
    uint64_t memory_bytes;
    uint32_t cpu_millis;
};

/* Whether owner may make one more object of that kind. ERR_QUOTA (public) says which quota. Does
 * not block. All are allowed as long as there is one owner. */
int quota_check(const char *owner, enum quota_kind kind, const struct quota_use *use,
                struct err *err);

#endif
