/* Inside src/api: an execution whose output goes to the client as it comes. */
#ifndef BERTH_API_STREAM_H
#define BERTH_API_STREAM_H

#include "api/call.h"
#include "api/request.h"
#include "wire/events.h"

/* What is streamed. */
struct api_stream_source {
    void *subject;
    /* Runs it on a thread of the stream's: calls sink, and sets out to the object for `end`;
     * returns 1 when it has not ended and the object is for `open`. */
    int (*run)(struct core *core, void *subject, const struct execution_sink *sink,
               struct answer *out, struct err *err);
    void (*free)(void *subject);
    const char *owner; /* borrowed from the subject */
    int gone_fd;       /* written to when the reader has gone, so that the run ends; -1: none */
    uint64_t after;    /* events that the reader has */
    bool follows;      /* it tells all events by itself, also those of long ago */
    bool waits;        /* a slow reader holds up nothing else: the queue never grows for it */
};

/* Starts the source on a thread of its own and waits until its first event is there, or it has
 * failed: such a failure is returned and has a status of its own. Takes the subject over (also when
 * it fails). On success the response is a stream, with the execution's id in X-Execution-Id. */
int api_stream_start(struct api_call *call, enum events_format format,
                     const struct api_stream_source *source, struct err *err);

/* The same of a request's body. */
int api_stream_request(struct api_call *call, enum events_format format,
                       struct api_request *request,
                       int (*run)(struct core *core, void *request,
                                  const struct execution_sink *sink, struct answer *out,
                                  struct err *err),
                       struct err *err);

#endif
