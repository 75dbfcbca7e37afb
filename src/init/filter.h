/* The seccomp filters, made at build time from the lists in filter_names.h (filter_gen.c). */
#ifndef BERTH_INIT_FILTER_H
#define BERTH_INIT_FILTER_H

enum filter_kind {
    FILTER_STRICT,    /* the code, profile strict */
    FILTER_CONTAINER, /* the code, profile container */
    FILTER_INIT,      /* init; everything that either of them allows, and what init does itself */
};

/* Adds a filter to the calling process and its future children (seccomp(2)). The process needs
 * no_new_privs or CAP_SYS_ADMIN in its user namespace. Returns 0, or -1 with errno. */
int filter_install(enum filter_kind kind);

#endif
