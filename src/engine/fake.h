/* fake: an engine inside this process, for tests: a sandbox is a few threads that speak the sandbox
 * protocol over socket pairs and run tiny scripts. Needs no privilege and isolates nothing. Its
 * files are memory, and outlive a stop where they are to be kept. It has the images "host" and
 * "debian", and says that it enforces all limits. Its library layers are names: their files are not
 * seen inside. Lifetime, idle and orphan times end it as they
 * end a real one, with events.gone; but a lifetime or orphan time of 0 is none.
 *
 * The script is the file that the last argument of an execution names, or the code of a run, one
 * step a line. One without a script, whose last argument has "version" in it, writes "fake 1.0":
 *   out TEXT, err TEXT   writes a line       outn TEXT   without the newline
 *   stdin                copies standard input to standard output
 *   env NAME, cat PATH   writes a variable, a file that was put
 *   flood N              writes N bytes of 'x' and honours credit
 *   sleep MS             waits; ends early when it is killed or interrupted
 *   set NAME TEXT        a variable; those of a cell stay with the kernel
 *   get NAME             writes its line; raises NameError
 *   raise NAME TEXT      ends with 1, a line on stderr and the message of an error
 *   result TEXT          the message of a result, as plain text    resultn N   of N bytes
 *   message TEXT         a message, as it stands
 *   deaf                 interrupts are ignored from here on
 *   exit N, signal N     ends with that code, by that signal
 *   oom                  ends as if the memory limit was hit
 *   fault NAME           does what that fault says, from here on
 * The program "script" runs its first argument, and "tar" writes some bytes.
 * An unknown step writes to stderr and ends with 1, as an interpreter would. An interrupt raises
 * KeyboardInterrupt in a run and ends an execution by signal 2, both with 130; a run that waits for
 * another is killed. Whatever kills a run, signal and oom included, ends its kernel; so does the
 * end of a run as a script, whose code is the file that it names. A kernel that had no run yet gets
 * other variables by KERNEL, as init does it. */
#ifndef BERTH_ENGINE_FAKE_H
#define BERTH_ENGINE_FAKE_H

#include <stdbool.h>

#include "base/err.h"
#include "wire/engine_msg.h"

struct engine;
struct engine_events;
struct sandbox_limits;
struct sandbox_network;

/* What may go wrong. The first group strikes when the engine is called, up to channel-away; the
 * second in a sandbox, once. One of those is taken by the next creation, start or further channel,
 * and strikes where its line says; the rest when the next script begins. */
enum engine_fake_fault {
    FAKE_FAULT_NONE,
    FAKE_FAULT_CREATE_FAILS,   /* ERR_INTERNAL */
    FAKE_FAULT_CREATE_HANGS,   /* no answer before the caller's deadline; made after all */
    FAKE_FAULT_CREATE_REFUSED, /* ERR_BAD_INPUT with a public message */
    FAKE_FAULT_UNPACKING,      /* ERR_UNAVAILABLE with a public message and retry_after_s 7 */
    FAKE_FAULT_RESTART,        /* ERR_UNAVAILABLE, then events.connected */
    FAKE_FAULT_DESTROY_FAILS,  /* the first try; repeated by itself */
    FAKE_FAULT_DESTROY_LOST,   /* engine_destroy_later() is not noted; events.connected */
    FAKE_FAULT_LIMIT_REFUSED,  /* ERR_CONFLICT */
    FAKE_FAULT_LIMIT_HANGS,    /* no answer before the caller's deadline; set after all */
    FAKE_FAULT_LIMIT_AWAY,     /* ERR_UNAVAILABLE as engine_is_away() tells it; not set */
    FAKE_FAULT_LAYER_REFUSED,  /* any call about layers: ERR_BAD_INPUT with a public message */
    FAKE_FAULT_LAYER_FAILS,    /* ERR_INTERNAL */
    FAKE_FAULT_LAYER_AWAY,     /* ERR_UNAVAILABLE as engine_is_away() tells it */
    FAKE_FAULT_CHANNEL_AWAY,   /* a further channel: the same */
    FAKE_FAULT_CLOSE_EARLY,    /* closes that channel before its hello */
    FAKE_FAULT_CLOSE_OUTPUT,   /* closes it after the next output */
    FAKE_FAULT_CLOSE_EXIT,     /* closes it instead of the exit */
    FAKE_FAULT_DIES,           /* the same, with events.gone */
    FAKE_FAULT_GARBAGE,        /* bytes that are no frame */
    FAKE_FAULT_OVERSIZED,      /* a frame that says 4 GiB */
    FAKE_FAULT_WRONG_NONCE,    /* in the hello */
    FAKE_FAULT_WRONG_EXIT,     /* exit code 4711 */
    FAKE_FAULT_WRONG_STREAM,   /* data for a stream that nobody opened */
    FAKE_FAULT_NO_CREDIT,      /* data beyond the credit */
    FAKE_FAULT_MUTE,           /* never reports an exit */
    FAKE_FAULT_SILENT,         /* init hangs: reads and says nothing more, on no channel */
    FAKE_FAULT_KERNEL_FAILS,   /* no kernel can be started (ENOENT) */
    FAKE_FAULT_KERNEL_DIES,    /* by signal 11; struck by an execution: between two runs */
    FAKE_FAULT_ATTACH_UNKNOWN, /* no held execution is known to ATTACH */
    FAKE_FAULT_DIES_OF_MEMORY, /* as DIES, and the engine says that it was the memory limit */
    FAKE_FAULT_PUT_REFUSED,    /* the next file can't be written (EISDIR), and what it is for not
                                  started */
    FAKE_FAULT_TIMERS_DIES,    /* as DIES, when it is told other times */
    FAKE_FAULT_COUNT
};

/* The name in scripts and in BERTH_FAKE_FAULT ("create-fails"); NULL past the last. */
const char *engine_fake_fault_name(enum engine_fake_fault fault);

/* Makes a fake engine. BERTH_FAKE_FAULT=NAME[:COUNT] in the environment injects a fault at once;
 * BERTH_FAKE_LACKS takes capabilities away and BERTH_FAKE_HAS adds some, by their names, with
 * spaces between; it has no zygotes by itself. BERTH_FAKE_RUNTIMES names runtimes: the first can
 * all of that, the others lack layers, limit and the profile container; it has none by itself.
 * events.connected is called from the engine's own thread. */
int engine_fake_new(const struct engine_events *events, struct engine **out, struct err *err);

/* The next count operations (creations, destructions, changes of limits, layers)
 * suffer the fault. */
void engine_fake_inject(struct engine *engine, enum engine_fake_fault fault, unsigned count);

/* One of the second group strikes a sandbox that lives. False: there is none of that id. */
bool engine_fake_strike(struct engine *engine, const char *id, enum engine_fake_fault fault);

/* What probe answers from now on. */
void engine_fake_set_info(struct engine *engine, const struct engine_info *info);

/* What the last creation was asked for. */
void engine_fake_last_create(struct engine *engine, struct engine_create *out);

/* The limits that a sandbox has now: those that it was made with, and what engine_limit() changed.
 * False: there is none of that id. */
bool engine_fake_limits(struct engine *engine, const char *id, struct engine_create *out);
/* What its init was told to enforce (LIMITS); 0: what it was made with. */
bool engine_fake_init_limits(struct engine *engine, const char *id, struct sandbox_limits *out);
/* Whether it has the network "full". */
bool engine_fake_full(struct engine *engine, const char *id);
/* What init was told of the network last. False: there is no such sandbox. */
bool engine_fake_network(struct engine *engine, const char *id, struct sandbox_network *out);

/* The layer that a sandbox was given last; "" none. False: there is no sandbox of that id. */
bool engine_fake_layer(struct engine *engine, const char *id,
                       char out[static ENGINE_LAYER_NAME_MAX + 1]);

/* The sandboxes that live now; stopped ones do not. */
unsigned engine_fake_living(struct engine *engine);

#endif
