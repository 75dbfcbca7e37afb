/* Owns the reading of NSpid in /proc: a number for each namespace from ours down
 * (proc_pid_status(5)). */
#include "native/nspid.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool nspid_is_first(pid_t pid)
{
    char path[48];
    char line[256];
    int numbers = 0;
    long next = 0;
    long last = 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    while (numbers == 0 && fgets(line, sizeof(line), file)) {
        if (strncmp(line, "NSpid:", 6) != 0)
            continue;
        char *end = NULL;
        for (char *at = line + 6; (next = strtol(at, &end, 10)) > 0 && end != at; at = end) {
            last = next;
            numbers++;
        }
    }
    (void)fclose(file);
    return numbers > 1 && last == 1;
}
