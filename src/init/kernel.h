/* The process of the language kernel and what is said to it (wire/kernel_msg.h).
 *
 * At most one lives. Whatever it says concerns the code in it only. When it ends, everything of the
 * code group ends before another one is started. */
#ifndef BERTH_INIT_KERNEL_H
#define BERTH_INIT_KERNEL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>

#include "base/buf.h"
#include "base/err.h"
#include "init/kernel_lines.h"
#include "init/kernel_spec.h"
#include "init/pipes.h"
#include "wire/init_config.h"

struct job;
struct job_table;

enum kernel_state {
    KERNEL_NONE,     /* no process */
    KERNEL_STARTING, /* it has not said that it is ready */
    KERNEL_ALIVE,
    KERNEL_DYING, /* until it is reaped and the group is empty */
};

struct kernel {
    enum kernel_state state;
    struct kernel_spec spec;
    bool wanted;           /* start one as soon as it can be */
    int failure;           /* errno of the last start that failed */
    char start_error[256]; /* "" or an exit code byte and a text */
    bool given;            /* this one is the engine's, which had it forked elsewhere */
    bool said_ready;       /* a given one, which may be nobody's child of ours yet */
    pid_t sender;          /* of what a given one said before it was ready; 0: nobody knows */
    pid_t pid;             /* -1 once reaped, and of a given one before it is ready */
    int wait_status;
    struct rusage rusage;
    int fd; /* -1 once its end was seen */
    int status_fd;
    short seen, status_seen; /* what poll(2) said of them in this turn */
    int64_t give_up_ns;      /* when it is killed: not ready, or deaf; INT64_MAX */
    int64_t rests_ns;        /* between two runs: until then it is not listened to */
    struct buf in;           /* messages, also of one that speaks lines */
    bool heard;              /* more came since the pipes of its run were looked at */
    size_t skipping; /* bytes of a message for nobody that are still to come; nothing is in then */
    struct buf out;
    size_t run_at;        /* where the run that is being put together begins in it */
    struct pipes passing; /* descriptors that go with the next byte, as its child[] */
    struct kernel_lines lines;
    struct job *job; /* the run that it has */
    bool striking;   /* the run is to be interrupted, and the signal has not been sent */
    bool told;       /* KERNEL_INTERRUPT of this run was sent */
    bool used;       /* it has had a run: there is state to lose */
    bool lost;       /* state was lost and nobody was told */
};

void kernel_init(struct kernel *kernel);

/* Starts one as the words say that it has. On failure `failure` is set, and there is none. */
void kernel_start(struct kernel *kernel, const struct init_config *config);

/* Takes one that the engine had forked into our pid namespace, before a KERNEL or RUN came: fd is
 * our end of its socket, a stream with SO_PASSCRED set before anything was sent on it. It joined
 * the code's group before. It has to be our child when it says READY, or soon: a process is handed
 * to the init of the namespace that its parent is in, so that it takes a parent in ours which ends
 * (pid_namespaces(7)). When its socket ends before it is ready, or it is not ready within 5 s, it
 * is as if there had been none. */
void kernel_take_given(struct kernel *kernel, int fd);

/* The parts of it that kernel.c calls. recv(2), which learns who sends before READY. */
ssize_t kernel_receive(struct kernel *kernel, void *data, size_t size);
/* After READY: it is alive now, 0; or an errno. EAGAIN: it is no child of ours yet. */
int kernel_adopt(struct kernel *kernel, const struct init_config *config);

/* Gives it a run. The body of KERNEL_RUN, or its lines, are appended to the buffer that the first
 * returns (NULL: there is no room); then either the second drops it, or the third sends it with
 * descriptors, whose owner is the kernel from here; of one that speaks lines there are none. It has
 * to be alive and without a job. */
struct buf *kernel_begin_run(struct kernel *kernel, struct err *err);
void kernel_drop_run(struct kernel *kernel);
void kernel_give_run(struct kernel *kernel, struct job *job, struct pipes *pipes);
/* The job is over. */
void kernel_leave_run(struct kernel *kernel, const struct job *job);

/* Interrupts the run that it has, at once or as soon as it has read so much of it that it can be
 * told. Several may count as one. */
void kernel_interrupt(struct kernel *kernel);

/* It is about to be killed with all of the group. */
void kernel_doom(struct kernel *kernel);

/* Sends, reads and judges what it says. Before the jobs take their steps, which look at that. */
void kernel_step(struct kernel *kernel, struct job_table *table);
/* Forgets one that is gone, starts one that is wanted. After the jobs, which decide about both. */
void kernel_settle(struct kernel *kernel, struct job_table *table);
/* Passes its messages to the job that it has, as far as that takes them. */
void kernel_deliver(struct kernel *kernel, struct job_table *table);

/* Whether a whole message waits to be passed on. */
bool kernel_has_message(const struct kernel *kernel);
/* Whether all that it ever said was read and passed on. */
bool kernel_is_heard_out(const struct kernel *kernel);

/* What poll(2) has to look at on fd, on lines.to_fd, and on lines.outputs. */
short kernel_events(const struct kernel *kernel);
short kernel_to_events(const struct kernel *kernel);
short kernel_output_events(const struct kernel *kernel, int64_t now_ns);
int64_t kernel_wakeup_ns(const struct kernel *kernel, const struct job_table *table);

/* A child was reaped; true when it was the kernel. All that it left behind has to end with it. */
bool kernel_reaped(struct kernel *kernel, struct job_table *table, pid_t pid, int wait_status,
                   const struct rusage *rusage);

#endif
