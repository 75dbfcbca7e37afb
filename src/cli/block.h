/* Whether typed lines are a whole piece of Python. */
#ifndef BERTH_CLI_BLOCK_H
#define BERTH_CLI_BLOCK_H

#include <stdbool.h>
#include <stddef.h>

/* text is one or more lines, each with its newline. More is to come while a bracket or a string
 * over several lines is open, and after a line that ends with a backslash. A line that ends with a
 * colon, an indented last line and a decorator make a block, which only an empty line ends. Errors
 * are Python's to find: what can't be right counts as whole. */
bool block_is_whole(const char *text, size_t size);

#endif
