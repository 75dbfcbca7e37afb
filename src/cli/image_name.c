/* Owns the guess of an image's name. */
#include <stdio.h>
#include <string.h>

#include "base/id.h"
#include "base/mem.h"
#include "cli/image.h"

int image_name_of(const char *source, char out[static IMAGE_NAME_MAX + 1], struct err *err)
{
    static const char *const transports[] = {"docker://",
                                             "oci-archive:", "docker-archive:", "oci:"};
    const char *rest = source;
    for (size_t i = 0; i < ARRAY_SIZE(transports) && rest == source; i++) {
        const size_t size = strlen(transports[i]);
        if (strncmp(source, transports[i], size) == 0)
            rest = source + size;
    }
    /* A colon before the last slash is that of a port. */
    const char *slash = strrchr(rest, '/');
    const char *last = slash && slash[1] != '\0' ? slash + 1 : rest;
    char name[IMAGE_NAME_MAX + 1];
    size_t size = strcspn(last, ":@./");
    if (size > IMAGE_NAME_MAX)
        size = IMAGE_NAME_MAX;
    memset(name, 0, sizeof(name));
    for (size_t i = 0; i < size; i++) {
        char byte = last[i];
        name[i] = (char)(byte >= 'A' && byte <= 'Z' ? byte - 'A' + 'a' : byte == '_' ? '-' : byte);
    }
    if (!id_is_name(name, IMAGE_NAME_MAX) || strcmp(name, "host") == 0)
        return err_set(err, ERR_BAD_INPUT, "\"%.100s\" gives no name for the image: use --name",
                       source);
    memcpy(out, name, sizeof(name));
    return 0;
}
