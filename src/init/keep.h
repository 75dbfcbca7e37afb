/* The first process of a pid namespace in which another runtime's sandbox runs (`berth-init keep`):
 * on the host, outside that sandbox, in the place of its init. With it ends everything.
 *
 * It is started by the setup stage with a child, the starter, that goes when the sandbox runs, and
 * whose children it gets then. Messages to the engine are those of a stage (native/setup.h): 'R'
 * once the starter has ended well, else a text; 'C' comes back. Until that the end of the engine is
 * its own end. It ends too when any of those children does, since none goes on without the others
 * (until the commit one may end well), and when the kernel has killed something for want of memory.
 */
#ifndef BERTH_INIT_KEEP_H
#define BERTH_INIT_KEEP_H

/* argv: "keep" and the numbers that wire/init_config.h names. Returns an exit status. */
int keep_run(int argc, char **argv);

#endif
