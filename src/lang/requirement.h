/* Requirements of libraries: "numpy>=1.24,<2", "@scope/name@^1.2", "rake:~>13.0".
 *
 * Each becomes one argument of an installer, so what an installer would take for anything else than
 * a name with versions is refused: options, paths, archives, addresses of any kind, aliases of
 * other sources, markers. ASCII only; blanks only where the notation has them, none in what comes
 * out. No allocation, no I/O. */
#ifndef BERTH_LANG_REQUIREMENT_H
#define BERTH_LANG_REQUIREMENT_H

#include <stddef.h>

#include "base/err.h"

#define REQUIREMENT_MAX 256 /* of one as text, with its NUL */

/* How a language's requirements are written. */
enum requirement_notation {
    REQUIREMENT_NONE,  /* the language installs none */
    REQUIREMENT_PIP,   /* PEP 508 without markers and addresses: name[extra,extra]>=1,<2 */
    REQUIREMENT_NPM,   /* name, name@1.2, @scope/name@^1.2, name@latest */
    REQUIREMENT_GEM,   /* name, name:1.2, name:~>1.2 */
    REQUIREMENT_CRAN,  /* name */
    REQUIREMENT_CPAN,  /* Module::Name, Module::Name@1.2, Module::Name~1.2 */
    REQUIREMENT_CARGO, /* name, name@1.2, name@^1,<1.5, name[feature,feature]@=1.2.3 */
    REQUIREMENT_GO,    /* example.com/module, example.com/module/v2@v2.1.0, ...@latest */
    REQUIREMENT_MAVEN, /* group:artifact:version */
    REQUIREMENT_NOTATION_COUNT
};

/* By its name in languages/NAME.ini ("pip"); REQUIREMENT_NONE for what is none. */
enum requirement_notation requirement_notation(const char *name);

/* Checks size bytes of text and writes the one form that it has: two texts with the same form ask
 * for the same. ERR_BAD_INPUT (public) says what is wrong, without the field's name. */
int requirement_normalise(enum requirement_notation notation, const char *text, size_t size,
                          char out[static REQUIREMENT_MAX], struct err *err);

#endif
