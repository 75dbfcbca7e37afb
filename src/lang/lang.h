/* Languages, each declared by one file in languages/ (INI, embedded by the build), and their
 * kernels. */
#ifndef BERTH_LANG_LANG_H
#define BERTH_LANG_LANG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/embed.h"
#include "base/err.h"
#include "lang/requirement.h"

#define LANG_ARGS_MAX 16
#define LANG_ENV_MAX 16
#define LANG_NAMES_MAX 12

enum lang_protocol {
    LANG_PROTOCOL_FRAMES, /* wire/kernel_msg.h */
    LANG_PROTOCOL_LINES,
};

struct lang {
    const char *name;                     /* "python" */
    const char *aliases[LANG_NAMES_MAX];  /* NULL-ended */
    const char *source;                   /* file that the code is written to, in the cwd */
    const char *compile[LANG_ARGS_MAX];   /* argv as run's, run before it; empty: not compiled */
    const char *program;                  /* what compile makes of the source, in the cwd: one file,
                                             all that run needs. NULL: nothing that can be kept */
    const char *run[LANG_ARGS_MAX];       /* argv, NULL-ended; "{source}" is replaced by source */
    const char *version[LANG_ARGS_MAX];   /* argv whose first line on either stream is the version;
                                             it fails where the language is missing */
    const char *hello;                    /* code that prints "hello" and a newline */
    const char *env[LANG_ENV_MAX];        /* "NAME=value" set before the request's, NULL-ended */
    const char *install[LANG_ARGS_MAX];   /* argv that the requirements are appended to; empty: none
                                             can be installed */
    const char *prefer[LANG_ARGS_MAX];    /* the same of an installer that goes before it where it
                                             is there; empty: none */
    const char *installed[LANG_ARGS_MAX]; /* argv that prints what install did; empty: none */
    enum requirement_notation notation;   /* of the requirements */
    const char *libraries_env[LANG_ENV_MAX]; /* "NAME=value" that makes run look at a layer */
    const char *kernel;                      /* file name of its kernel in kernels/; NULL: none */
    enum lang_protocol protocol;             /* of the kernel */
    const char *at_start[LANG_NAMES_MAX];    /* variables that it, started already, can't take any
                                                more: names, or "PREFIX*"; NULL-ended */
    bool scripts; /* the kernel runs whole programs too; false: only cells, run does the others */
    /* argv of its kernel, NULL-ended. It reads lang_kernel_source() as its standard input (struct
     * sandbox_kernel's input), from offset 0 of a file, or what kernel_compile wrote with the
     * text right behind it; it takes the text when what was compiled is not of its own version. */
    const char *kernel_run[LANG_ARGS_MAX];
    /* argv of a program of the same image that reads the text on standard input and writes on
     * standard output what spares kernel_run the compilation; empty: there is none. It runs no
     * code of a user. What it wrote holds for that image alone. */
    const char *kernel_compile[LANG_ARGS_MAX];
};

/* Reads all embedded files. ERR_INTERNAL names a file that is wrong. Call once, before threads. */
int lang_load(struct err *err);

/* By name or alias, case-insensitive. ERR_BAD_INPUT (public) lists what there is. The result lives
 * until lang_unload(). */
int lang_find(const char *name, const struct lang **out, struct err *err);

/* The source of the language's kernel, or NULL when it has none. Static. */
const struct embedded_file *lang_kernel_source(const struct lang *lang);

/* All languages in the order of their names. */
const struct lang *const *lang_all(size_t *out_count);

void lang_unload(void);

#endif
