/* Owns the installing of a filter. */
#include "init/filter.h"

#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"
#include "init/filters.h"

int filter_install(enum filter_kind kind)
{
    static const struct {
        const struct sock_filter *code;
        unsigned short count;
    } table[] = {
        [FILTER_STRICT] = {strict_filter, ARRAY_SIZE(strict_filter)},
        [FILTER_CONTAINER] = {container_filter, ARRAY_SIZE(container_filter)},
        [FILTER_INIT] = {init_filter, ARRAY_SIZE(init_filter)},
    };
    /* The kernel's own struct sock_fprog, whose pointer would have to lose its const. */
    const struct {
        unsigned short count;
        const struct sock_filter *code;
    } program = {table[kind].count, table[kind].code};
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}
