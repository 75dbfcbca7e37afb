/* Owns the way from `berth image --engine docker` to berth-docker, which alone talks with the
 * daemon. */
#include <stdlib.h>
#include <string.h>

#include "cli/image.h"
#include "cli/local.h"

bool image_is_of_docker(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--engine=docker") == 0)
            return true;
        if (i + 1 < argc && strcmp(argv[i], "--engine") == 0 && strcmp(argv[i + 1], "docker") == 0)
            return true;
    }
    return false;
}

int image_become_docker(int argc, char **argv, struct err *err)
{
    static char program[] = "berth-docker";
    static char image[] = "image";
    char **words = calloc((size_t)argc + 2, sizeof(*words));
    size_t count = 0;
    bool is_taken = false;
    if (!words)
        return err_set(err, ERR_INTERNAL, "no memory");
    words[count++] = program;
    words[count++] = image;
    for (int i = 1; i < argc; i++) {
        if (!is_taken && strcmp(argv[i], "--engine=docker") == 0)
            is_taken = true;
        else if (!is_taken && strcmp(argv[i], "--engine") == 0) {
            is_taken = true;
            i++;
        } else
            words[count++] = argv[i];
    }
    int result = local_exec(program, words, err);
    free(words);
    return result;
}
