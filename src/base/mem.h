/* Owners for heap memory. */
#ifndef BERTH_BASE_MEM_H
#define BERTH_BASE_MEM_H

#include <stddef.h>

/* Frees what *pointer points to; pointer is the address of a pointer variable. */
void mem_free_at(void *pointer);
#define MEM_AUTO __attribute__((cleanup(mem_free_at)))

/* Moves a pointer out of its variable: take(name) is the value, name is NULL afterwards. */
#define take(variable)                                                                             \
    ({                                                                                             \
        __typeof__(variable) taken_ = (variable);                                                  \
        (variable) = NULL;                                                                         \
        taken_;                                                                                    \
    })

#define ARRAY_SIZE(array) (sizeof(array) / sizeof((array)[0]))

#endif
