/* Owns the one fault point of this process. Refuses to be active outside of tests. */
#include "base/fault.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_KILLED = 137 };

static char set_text[64];
static unsigned long left; /* times that the point is passed before it strikes, plus one */
static const char *once_path;

void fault_set(const char *text)
{
    (void)snprintf(set_text, sizeof(set_text), "%s", text ? text : "");
    const char *colon = strrchr(set_text, ':');
    left = colon ? strtoul(colon + 1, NULL, 10) : 1;
}

void fault_init(void)
{
    const char *testing = getenv("BERTH_TESTING");
    if (!testing || strcmp(testing, "1") != 0)
        return;
    fault_set(getenv("BERTH_FAULT"));
    once_path = getenv("BERTH_FAULT_ONCE");
}

const char *fault_text(void)
{
    return set_text;
}

void fault_point(const char *name)
{
    if (set_text[0] == '\0')
        return;
    size_t size = strcspn(set_text, ":");
    if (strlen(name) != size || strncmp(name, set_text, size) != 0 || left == 0)
        return;
    if (--left > 0 || (once_path && unlink(once_path) != 0))
        return;
    (void)kill(getpid(), SIGKILL);
    _exit(EXIT_KILLED); /* the first process of a pid namespace can't kill itself */
}
