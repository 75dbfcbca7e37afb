/* Messages of the sandbox protocol, between the server and the init of a sandbox.
 *
 * Each pair of functions turns a struct into the payload of one frame and back. Decoded strings
 * point into the payload; decoded arrays are freed by the _done function. Versions: both sides send
 * HELLO first; the newest version that both speak is used, none in common is ERR_PROTOCOL. */
#ifndef BERTH_WIRE_SANDBOX_H
#define BERTH_WIRE_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/buf.h"
#include "base/err.h"
#include "wire/outcome.h"

#define SANDBOX_VERSION_MIN 1
#define SANDBOX_VERSION_MAX 1
#define SANDBOX_NONCE_SIZE 16
#define SANDBOX_ID_MAX 64     /* longest sandbox or execution id, without its NUL */
#define SANDBOX_PATH_MAX 4096 /* longest path, with its NUL (PATH_MAX) */
#define SANDBOX_ARGS_MAX 4096 /* most argv or env entries */

/* Capability bits of an init. */
#define SANDBOX_CAP_EXEC (UINT64_C(1) << 0)
#define SANDBOX_CAP_PUT_FILE (UINT64_C(1) << 1)
#define SANDBOX_CAP_CGROUP (UINT64_C(1) << 2) /* enforces memory and pids, tells OOM apart */
#define SANDBOX_CAP_GET_FILE (UINT64_C(1) << 3)
#define SANDBOX_CAP_KERNEL (UINT64_C(1) << 4)   /* KERNEL, RUN, INTERRUPT */
#define SANDBOX_CAP_HOLD (UINT64_C(1) << 5)     /* hold, ATTACH, FORGET, LIST */
#define SANDBOX_CAP_TIMERS (UINT64_C(1) << 6)   /* TIMERS */
#define SANDBOX_CAP_TERMINAL (UINT64_C(1) << 7) /* a terminal, RESIZE */
#define SANDBOX_CAP_LIMITS (UINT64_C(1) << 8)   /* LIMITS; a kernel's input and later variables */
#define SANDBOX_CAP_EGRESS (UINT64_C(1) << 9)   /* NETWORK, EGRESS */
#define SANDBOX_CAP_LINES (UINT64_C(1) << 10)   /* kernels that speak lines */

#define SANDBOX_CODE_MAX (8U * 1024U * 1024U) /* of one RUN */
#define SANDBOX_HELD_MAX 16                   /* ended executions that nobody forgot yet */
#define SANDBOX_NEVER UINT64_MAX              /* a time that does not come */

struct sandbox_hello {
    uint32_t version_min;
    uint32_t version_max;
    uint64_t capabilities; /* of init. From the server SANDBOX_CAP_EGRESS alone: one EGRESS is all
                              that this connection will say, and init holds it to that */
    uint8_t nonce[SANDBOX_NONCE_SIZE]; /* from init: the sandbox's own; from the server: zero */
};

int sandbox_hello_encode(const struct sandbox_hello *hello, struct buf *out, struct err *err);
int sandbox_hello_decode(const void *payload, size_t size, struct sandbox_hello *hello,
                         struct err *err);
/* The version that both speak, or -ERR_PROTOCOL. */
int sandbox_hello_agree(const struct sandbox_hello *ours, const struct sandbox_hello *theirs,
                        struct err *err);

struct sandbox_exec {
    const char *execution_id; /* at most SANDBOX_ID_MAX bytes */
    const char *cwd;          /* absolute, inside the sandbox */
    const char **argv;        /* argc entries, argv[0] looked up in PATH of envp; NULL-ended */
    size_t argc;              /* at least 1 */
    const char **envp;        /* the whole environment, "NAME=value"; NULL-ended */
    size_t envc;
    uint64_t timeout_ms; /* wall-clock time until it is killed; 0 is none */
    uint64_t keep_bytes; /* of each of stdout and stderr: past it bytes are counted, not sent */
    uint64_t output_max_bytes; /* of both together: past it the execution is killed */
    bool hold;                 /* outlives its connection; see "Held executions" */
    uint32_t terminal;         /* columns << 16 | rows: a terminal is its input and output (on the
                                  stream of stdout, which ends with a hang-up when the connection
                                  of one that is not held goes); 0: pipes */
};

int sandbox_exec_encode(const struct sandbox_exec *exec, struct buf *out, struct err *err);
int sandbox_exec_decode(const void *payload, size_t size, struct sandbox_exec *exec,
                        struct err *err);
void sandbox_exec_done(struct sandbox_exec *exec);

/* How init and a kernel speak; kernels/README.md has both. */
enum sandbox_kernel_protocol {
    SANDBOX_KERNEL_FRAMES, /* a socket, and descriptors of each run pass over it */
    SANDBOX_KERNEL_LINES,  /* pipes; cells only, which begin when all of their stdin has come */
};

/* The language kernel of a sandbox: a process that init starts and that runs one RUN after another.
 * When it dies, the next RUN gets a fresh one. The EXIT of the RUN that it died in says so
 * (sandbox_exit.state_lost), or of the next one when it died between two: once. */
struct sandbox_kernel {
    const char *cwd;
    const char **argv;
    size_t argc;
    const char **envp;
    size_t envc;
    const void *input;                     /* all that it finds as standard input when it starts */
    size_t input_size;                     /* 0: nothing */
    enum sandbox_kernel_protocol protocol; /* another one than FRAMES: SANDBOX_CAP_LINES */
};

int sandbox_kernel_encode(const struct sandbox_kernel *kernel, struct buf *out, struct err *err);
int sandbox_kernel_decode(const void *payload, size_t size, struct sandbox_kernel *kernel,
                          struct err *err);
void sandbox_kernel_done(struct sandbox_kernel *kernel);

enum sandbox_run_mode {
    SANDBOX_RUN_CELL,   /* in the kernel's own namespace; its state stays */
    SANDBOX_RUN_SCRIPT, /* as a program of its own, which ends the kernel's process */
};

/* One piece of code for the kernel. Ends with EXIT, as an EXEC does. Runs of one kernel wait for
 * each other in the order in which they came, at most SANDBOX_HELD_MAX. */
struct sandbox_run {
    const char *execution_id;
    enum sandbox_run_mode mode;
    const char *file;  /* what tracebacks call it; of a script: its path */
    const char **envp; /* set, on top of the kernel's own; NULL-ended */
    size_t envc;
    uint64_t timeout_ms;         /* 0 is none; then SIGINT, grace_ms, and the kernel is killed */
    uint64_t grace_ms;           /* 0: killed at once */
    uint64_t keep_bytes;         /* as sandbox_exec */
    uint64_t output_max_bytes;   /* as sandbox_exec; messages count too */
    uint64_t messages_max_bytes; /* past it messages are dropped, and EXIT says so */
    bool hold;
};

int sandbox_run_encode(const struct sandbox_run *run, struct buf *out, struct err *err);
int sandbox_run_decode(const void *payload, size_t size, struct sandbox_run *run, struct err *err);
void sandbox_run_done(struct sandbox_run *run);

/* Held executions. With `hold`, init keeps the events of an execution: each DATA frame of stdout or
 * stderr and each MESSAGE_PART or MESSAGE that it sends is one, counted from 1. Without a
 * connection it goes on and keeps events up to the execution's bounds; with one, a reader without
 * credit slows the code. Whoever attaches gets the events after a number, in the same pieces, then
 * EXIT. Only one connection is attached; a later one takes over. An ended one is kept until it is
 * forgotten: past SANDBOX_HELD_MAX of them no other is begun. One that was refused is not kept.
 * Standard input is the first connection's, and ends with it; a terminal's goes to whoever is
 * attached. */
struct sandbox_attach {
    const char *execution_id;
    uint64_t after; /* events */
};

int sandbox_attach_encode(const struct sandbox_attach *attach, struct buf *out, struct err *err);
int sandbox_attach_decode(const void *payload, size_t size, struct sandbox_attach *attach,
                          struct err *err);

struct sandbox_held {
    char execution_id[SANDBOX_ID_MAX + 1];
    bool ended;
    uint64_t events;
};

struct sandbox_listed {
    struct sandbox_held held[2 * SANDBOX_HELD_MAX];
    size_t count;
    bool kernel_lives;
    uint64_t lifetime_ms, idle_ms; /* left until either; SANDBOX_NEVER */
};

int sandbox_listed_encode(const struct sandbox_listed *listed, struct buf *out, struct err *err);
int sandbox_listed_decode(const void *payload, size_t size, struct sandbox_listed *listed,
                          struct err *err);

/* When init ends the sandbox by itself; each from now on, SANDBOX_NEVER, or 0: as it is. A sandbox
 * is idle while nothing runs in it, no file is moved and no terminal is open. Once init has said
 * DONE, the new times hold: a renewal either comes before the end or fails. */
struct sandbox_timers {
    uint64_t lifetime_ms;
    uint64_t idle_ms;
    uint64_t orphan_ms; /* without a connection */
};

int sandbox_timers_encode(const struct sandbox_timers *timers, struct buf *out, struct err *err);
int sandbox_timers_decode(const void *payload, size_t size, struct sandbox_timers *timers,
                          struct err *err);

/* How much larger a file may grow than the root that holds it: code is to run out of space, which
 * it hears of, before it is stopped by its limit. More than a page, which sizes are rounded up to.
 */
#define SANDBOX_FILE_SIZE_SPARE 8192U

/* The most processes that any sandbox may have: engine and init look at it, whatever a server says.
 */
#define SANDBOX_PIDS_MAX 65536U

/* What init enforces itself and a sandbox that was made ahead gets when it is taken: for all that
 * starts in it from now on, and for the kernel that lives. 0: as it is. The other limits are the
 * engine's (ENGINE_OP_LIMIT). */
struct sandbox_limits {
    uint32_t pids_max;       /* written back after a kill set it to 0; without cgroups a limit */
    uint64_t file_size_max;  /* bytes; never above what the sandbox was made with */
    uint32_t open_files_max; /* likewise */
};

int sandbox_limits_encode(const struct sandbox_limits *limits, struct buf *out, struct err *err);
int sandbox_limits_decode(const void *payload, size_t size, struct sandbox_limits *limits,
                          struct err *err);

/* The way out of a sandbox: init listens on 127.0.0.1:3128 inside, and hands what it accepts to the
 * connection that said EGRESS (berth-egress). While nobody has, connections wait for some seconds
 * and then get a 503. That connection is not one of those that keep a sandbox alive. */
#define SANDBOX_PROXY_PORT 3128

enum sandbox_network_mode {
    SANDBOX_NETWORK_NONE,   /* nothing listens; a sandbox begins with it */
    SANDBOX_NETWORK_EGRESS, /* the proxy listens */
    SANDBOX_NETWORK_COUNT
};

/* Idempotent. NONE does not end what was accepted before: egress does (EGRESS_OP_DETACH). */
struct sandbox_network {
    enum sandbox_network_mode mode;
};

int sandbox_network_encode(const struct sandbox_network *network, struct buf *out, struct err *err);
int sandbox_network_decode(const void *payload, size_t size, struct sandbox_network *network,
                           struct err *err);

struct sandbox_exit {
    uint32_t exit_code; /* 0..255; 128 + n for signal n; 127 not found, 126 not runnable */
    enum kill_cause cause;
    uint32_t limits_hit;        /* bits of enum limit_hit */
    uint64_t cpu_us;            /* user and system time of all processes */
    uint64_t wall_us;           /* from the start of the process to its end */
    uint64_t max_rss_bytes;     /* the largest resident set of a process that was waited for */
    uint64_t memory_peak_bytes; /* of the whole group, page cache and tmpfs included; 0 unknown */
    uint64_t stdout_bytes;      /* written by the code, kept or not */
    uint64_t stderr_bytes;
    uint64_t pids_peak;     /* 0 unknown */
    uint64_t message_bytes; /* of all messages, kept or not */
    bool messages_dropped;
    bool state_lost; /* of a RUN: the kernel died in it, or between the run before and this one:
                        variables are gone. SANDBOX_RUN_SCRIPT: never for its own end */
    const char *start_error; /* why the program could not be started; "" when it was */
};

int sandbox_exit_encode(const struct sandbox_exit *exit, struct buf *out, struct err *err);
int sandbox_exit_decode(const void *payload, size_t size, struct sandbox_exit *exit,
                        struct err *err);

struct sandbox_put_file {
    const char *path; /* absolute, or relative to /workspace; missing folders are made */
    uint32_t mode;    /* permission bits, 0644 by default */
};

int sandbox_put_file_encode(const struct sandbox_put_file *put, struct buf *out, struct err *err);
int sandbox_put_file_decode(const void *payload, size_t size, struct sandbox_put_file *put,
                            struct err *err);

enum sandbox_get_info {
    SANDBOX_INFO_NONE,
    SANDBOX_INFO_FIRST, /* a struct sandbox_file_info comes before the bytes, and counts as some */
    SANDBOX_INFO_ONLY,  /* it comes alone */
    SANDBOX_INFO_COUNT
};

struct sandbox_get_file {
    const char *path;    /* absolute, or relative to /workspace; a regular file */
    uint64_t offset;     /* first byte; past the end: nothing */
    uint64_t size_bytes; /* at most, without the info; 0: to the end */
    enum sandbox_get_info info;
};

/* A file at the moment when it was opened: no byte past size_bytes comes after it. The last three
 * tell one version of a file from another; of the two times only `changed` is the kernel's own. */
struct sandbox_file_info {
    uint64_t size_bytes;
    uint64_t inode;
    int64_t changed_ns;  /* st_ctim, since 1970 */
    int64_t modified_ns; /* st_mtim */
};

#define SANDBOX_FILE_INFO_SIZE 32 /* little-endian, in this order */
void sandbox_file_info_encode(const struct sandbox_file_info *info,
                              uint8_t out[static SANDBOX_FILE_INFO_SIZE]);
void sandbox_file_info_decode(const uint8_t data[static SANDBOX_FILE_INFO_SIZE],
                              struct sandbox_file_info *out);

int sandbox_get_file_encode(const struct sandbox_get_file *get, struct buf *out, struct err *err);
int sandbox_get_file_decode(const void *payload, size_t size, struct sandbox_get_file *get,
                            struct err *err);

struct sandbox_done {
    int32_t sys_errno;   /* 0 on success; else an errno value of Linux */
    uint64_t size_bytes; /* bytes written, or read */
};

int sandbox_done_encode(const struct sandbox_done *done, struct buf *out, struct err *err);
int sandbox_done_decode(const void *payload, size_t size, struct sandbox_done *done,
                        struct err *err);

#endif
