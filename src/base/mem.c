/* Owns the cleanup helper for heap memory. */
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

void mem_free_at(void *pointer)
{
    void *memory = NULL;
    memcpy(&memory, pointer, sizeof(memory));
    free(memory);
}
