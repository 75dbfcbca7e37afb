/* A terminal as the input and output of a program (pty(7)).
 *
 * The program's child opens it, with the identity of the code: so its name in /dev/pts belongs to
 * the code, and the number of them is the sandbox's. The other side comes to init over a socket
 * before anything of the code's runs. */
#ifndef BERTH_INIT_TERMINAL_H
#define BERTH_INIT_TERMINAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* In the child, leader of a session without a terminal: makes one of size (columns << 16 | rows),
 * puts it on 0, 1 and 2, and sends its other side over socket_fd. 0, or -1 with errno. */
int terminal_enter(int socket_fd, uint32_t size);

/* In init: takes the other side from the socket, non-blocking. -1 when it has not come, or never
 * will: *over says which. */
int terminal_take(int socket_fd, bool *over);

/* On init's side. */
void terminal_resize(int fd, uint32_t size);
/* To whatever has the foreground. */
void terminal_interrupt(int fd);
/* Whether it makes signals: of what is typed, of terminal_interrupt(), of its other side's end. Not
 * on gVisor, where nobody but the code can say who has the foreground. */
bool terminal_makes_signals(int fd);
/* Whether one of these bytes asks for SIGINT. */
bool terminal_is_interrupt(int fd, const void *typed, size_t size);

#endif
