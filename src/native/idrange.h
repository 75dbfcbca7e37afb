/* Ranges of user ids, one for each living sandbox of the whole host.
 *
 * A range is held by flock(2) on a file of a folder that all servers share. The locked description
 * is inherited by the sandbox's init, so the kernel gives the range back when the last process of
 * the sandbox is gone, whoever was killed before; two servers can't hold the same range.
 *
 * The host's root hands out 65,536 ids a sandbox. Who has fewer ids (an ordinary user with
 * /etc/subuid, a container with a user namespace) hands out as few as profile strict needs; who has
 * but one shares it among all sandboxes. */
#ifndef BERTH_NATIVE_IDRANGE_H
#define BERTH_NATIVE_IDRANGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

#define IDRANGE_SIZE 65536U
/* Ids that no distribution hands out (systemd, docs/UIDS-GIDS.md: unused up to 0x7fffffff). */
#define IDRANGE_FIRST 0x70000000U
#define IDRANGE_COUNT 4096U
/* Below them: the ids of berth-unpack. */
#define IDRANGE_UNPACK (IDRANGE_FIRST - IDRANGE_SIZE)
#define IDRANGE_SPARSE_SIZE 4U

enum idrange_kind {
    IDRANGE_WHOLE,  /* every id of a namespace */
    IDRANGE_SPARSE, /* init's, and of the inner namespace 0, the code's and nobody's */
    IDRANGE_SHARED, /* one id for everything: init and the code are told apart by namespaces only */
};

/* The ids that this process can give to sandboxes. */
struct idrange_space {
    enum idrange_kind kind;
    uint32_t first;
    uint32_t size; /* of one range */
    uint32_t count;
};

struct idrange {
    uint32_t base; /* first id, as this process sees it */
    uint32_t index;
    int lock_fd; /* -1: none held */
};

/* The ids of one sandbox in its two namespaces. */
struct idrange_maps {
    char outer[96];    /* for uid_map and gid_map; init is id 0 */
    const char *inner; /* the same for the code's namespace, from the outer one */
    const char *files; /* the same with the outer id 0 behind it: gVisor's file server makes each
                          file as that id, and gives it away then; NULL: there is no room */
    uid_t root_id;     /* who owns the root, in the outer namespace: inner 0 where there is one */
    uid_t code_id;     /* inner 1000, in the outer namespace */
    int tty_gid;       /* inner 5, in the outer namespace; -1: there is none */
    bool one_id;       /* all of these are one: setgroups(2) is denied then */
};

/* What can be done with ids 0 to id_count - 1. */
struct idrange_space idrange_plan(uint64_t id_count);

/* The same for the ids that this process's user namespace has, users and groups alike. */
int idrange_find(struct idrange_space *out, struct err *err);

void idrange_describe(const struct idrange_space *space, uint32_t base, struct idrange_maps *out);

/* Writes the maps of users and groups, which are the same, of a child's new user namespace. */
int idrange_write_maps(pid_t pid, const char *map, struct err *err);

/* A user namespace with these maps and nobody in it, to map a mount's ids with; the caller's to
 * close. */
int idrange_open_userns(const char *map, int *out_fd, struct err *err);

/* Opens the folder of locks, made when it is missing: /run/berth/ids for the host's root, else
 * berth/ids below XDG_RUNTIME_DIR or /run/user/UID (host_uid: the user as the host calls him), so
 * that all servers of a user share it; without these, ids below own_fd. */
int idrange_open(const struct idrange_space *space, uid_t host_uid, int own_fd, int *out_dir_fd,
                 struct err *err);

/* Takes a free range; ERR_UNAVAILABLE when all are in use. */
int idrange_take(int dir_fd, const struct idrange_space *space, struct idrange *out,
                 struct err *err);

/* Closes our description; the range is free once the sandbox's init is gone too. */
void idrange_release(struct idrange *range);

#endif
