/* Copies of small folder trees for the image. */
#ifndef BERTH_NATIVE_TREECOPY_H
#define BERTH_NATIVE_TREECOPY_H

#include <sys/types.h>

#include "base/err.h"

/* Copies base/name (a file, a link or a folder, with what is below it) to out_fd/name. Only what
 * everybody may read is copied: private keys that lie beside public certificates stay out. What
 * does not exist is skipped. Links are copied as links, up to 64 levels deep. */
int treecopy_public(const char *base, const char *name, int out_fd, struct err *err);

/* Copies all that is below the folder from_fd (O_PATH will do) into the folder out_fd, which gets
 * its owner and mode too; each owner and group is counted from first_id on. */
int treecopy_owned(int from_fd, int out_fd, uid_t first_id, struct err *err);

#endif
