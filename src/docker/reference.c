/* Owns what is taken for the name of an image. Whether there is one of it, the daemon knows. */
#include "docker/reference.h"

#include <stdio.h>
#include <string.h>

bool reference_is_valid(const char *name)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  "._-/:@";
    size_t size = strlen(name);
    return size > 0 && size < ENGINE_IMAGE_MAX && strspn(name, allowed) == size &&
           strchr("._-/:@", name[0]) == NULL && !strstr(name, "..") && !strstr(name, "//");
}

bool reference_has_tag(const char *name)
{
    const char *last = strrchr(name, '/');
    return strpbrk(last ? last : name, ":@") != NULL; /* a colon before the slash is of a port */
}

void reference_escape(const char *name, char out[static REFERENCE_ESCAPED_SIZE])
{
    size_t used = 0;
    for (; *name != '\0' && used + 4 < REFERENCE_ESCAPED_SIZE; name++) {
        if (strchr(":/@", *name))
            used += (size_t)snprintf(out + used, REFERENCE_ESCAPED_SIZE - used, "%%%02X",
                                     (unsigned char)*name);
        else
            out[used++] = *name;
    }
    out[used] = '\0';
}

void reference_expand(const char *name, char out[static REFERENCE_FULL_SIZE])
{
    size_t first = strcspn(name, "/");
    bool has_registry =
        name[first] == '/' && (memchr(name, '.', first) || memchr(name, ':', first) ||
                               (first == 9 && strncmp(name, "localhost", 9) == 0));
    const char *before = "docker.io/";
    if (has_registry)
        before = "";
    else if (name[first] == '\0')
        before = "docker.io/library/";
    (void)snprintf(out, REFERENCE_FULL_SIZE, "%s%s", before, name);
}
