/* The pipes between init and what it starts: our ends never block, the others may. */
#ifndef BERTH_INIT_PIPES_H
#define BERTH_INIT_PIPES_H

#include <stdint.h>

#include "base/err.h"
#include "wire/init_config.h"

/* The child's side is closed in init once the child has it. */
struct pipes {
    int child[3]; /* standard input, output, error */
    int ours[3];
    int status[2]; /* where a start that failed is told: ours, the child's */
};

#define PIPES_AUTO __attribute__((cleanup(pipes_done)))
#define PIPES_INIT ((struct pipes){.child = {-1, -1, -1}, .ours = {-1, -1, -1}, .status = {-1, -1}})

enum pipes_wanted {
    PIPES_STDIN = 1 << 0,
    PIPES_STDOUT = 1 << 1,
    PIPES_STDERR = 1 << 2,
    PIPES_STATUS = 1 << 3
};

/* Called once, before the first: finds out what the pipes of this kernel need, so that the code can
 * open them again by name. */
void pipes_adapt(const struct init_config *config);

/* Makes those of enum pipes_wanted. After a failure too, pipes_done() closes what was made. */
int pipes_make(struct pipes *pipes, unsigned wanted, struct err *err);
void pipes_done(struct pipes *pipes);

/* How many bytes lie in the pipe of our reading end. */
uint64_t pipes_filled(int fd);

#endif
