/* Owns the one fault point of this process. Refuses to be active outside of tests. */
#include "base/fault.h"

#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/fd.h"

enum { EXIT_KILLED = 137 };

static char set_text[64];
static unsigned long left; /* times that the point is passed before it strikes, plus one; 0 as 1 */
static const char *once_path;
/* The first byte of FILE, 0 until somebody struck. Mapped: a child that gave up its ids or its root
 * can't open or remove FILE any more. NULL: no FILE was named. */
static atomic_uchar *struck;
static atomic_uchar was_struck = 1; /* of a FILE that is not there */

void fault_set(const char *text)
{
    (void)snprintf(set_text, sizeof(set_text), "%s", text ? text : "");
    const char *colon = strrchr(set_text, ':');
    left = colon ? strtoul(colon + 1, NULL, 10) : 1;
}

/* Maps FILE, which may be empty. */
static void open_once(void)
{
    struct stat info;
    struck = &was_struck;
    FD_AUTO int fd = open(once_path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) != 0 || (info.st_size == 0 && ftruncate(fd, 1) != 0))
        return;
    void *byte = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (byte != MAP_FAILED)
        struck = byte;
}

bool fault_is_testing(void)
{
    const char *testing = getenv("BERTH_TESTING");
    return testing && strcmp(testing, "1") == 0;
}

void fault_init(void)
{
    if (!fault_is_testing())
        return;
    fault_set(getenv("BERTH_FAULT"));
    once_path = getenv("BERTH_FAULT_ONCE");
    if (once_path)
        open_once();
}

const char *fault_text(void)
{
    return set_text;
}

/* Takes the one strike that FILE stands for. */
static bool claim(void)
{
    if (!struck)
        return true;
    if (atomic_exchange(struck, 1) != 0)
        return false;
    (void)unlink(once_path); /* not where the caller left the root, or its rights */
    return true;
}

const char *fault_text_for(const char *prefix)
{
    if (strncmp(set_text, prefix, strlen(prefix)) != 0 || !claim())
        return "";
    return set_text;
}

void fault_point(const char *name)
{
    if (set_text[0] == '\0')
        return;
    size_t size = strcspn(set_text, ":");
    if (strlen(name) != size || strncmp(name, set_text, size) != 0)
        return;
    if (left > 1) {
        left--;
        return;
    }
    if (!claim())
        return;
    (void)kill(getpid(), SIGKILL);
    /* The first process of a pid namespace can't kill itself. Raw: it may have a stack of its own,
     * which a sanitizer that is told of the end would take for a wrong one. */
    (void)syscall(SYS_exit_group, EXIT_KILLED);
}
