/* Messages between init and the language kernel of a sandbox, over a stream socket that the kernel
 * has as descriptor 3. One that speaks lines has two pipes, 3 and 4; what it says becomes these
 * messages in init.
 *
 * A message is the size of its body (u32, little-endian), its type (u8), the body. A body with
 * fields has those of wire/tlv.h. What a kernel says is forgeable by the code in it, and concerns
 * that code alone: init believes it about the end of a run and its exit code, never about a cause.
 * kernels/README.md is the same for whoever writes a kernel. */
#ifndef BERTH_WIRE_KERNEL_MSG_H
#define BERTH_WIRE_KERNEL_MSG_H

#define KERNEL_FD 3
#define KERNEL_OUT_FD 4 /* of one that speaks lines */
#define KERNEL_HEADER_SIZE 5
#define KERNEL_BODY_MAX                                                                            \
    (32U * 1024U * 1024U) /* of a message from a kernel; past it, it is killed */

enum kernel_msg {
    KERNEL_RUN = 'X', /* to the kernel: fields; descriptors of stdin, stdout and stderr of this
                         run come with the first byte (SCM_RIGHTS) */
    KERNEL_INTERRUPT = 'I', /* to it: KERNEL_TAG_ID of the run that the next SIGINT is for; once a
                               run, behind its KERNEL_RUN. The signal alone does not say it */
    KERNEL_READY = 'R',     /* from it, once: it takes runs; no body */
    KERNEL_MESSAGE = 'M', /* from it: a JSON object, passed on as it is: {"type": "result", "data":
                             {mime: text}} or {"type": "error", "name", "value", "traceback"} */
    KERNEL_DONE = 'D',    /* from it: u8 exit code; stdout and stderr are flushed before */
    KERNEL_END = 'E',     /* from one that speaks lines: the same, and it is of no use any more */
};

enum kernel_run_tag {
    KERNEL_TAG_ID = 1, /* text: the execution's */
    KERNEL_TAG_MODE,   /* u64: enum sandbox_run_mode */
    KERNEL_TAG_FILE,   /* text */
    KERNEL_TAG_ENV,    /* text, repeated; the last of one name counts */
    KERNEL_TAG_CODE,   /* bytes, UTF-8 */
};

#endif
