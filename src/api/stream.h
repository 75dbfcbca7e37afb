/* Inside src/api: an execution whose output goes to the client as it comes. */
#ifndef BERTH_API_STREAM_H
#define BERTH_API_STREAM_H

#include "api/call.h"
#include "api/request.h"
#include "wire/events.h"

/* Starts the execution on a thread of its own and waits until it runs, or has failed: such a
 * failure is returned and has a status of its own. Takes *request over (also when it fails). On
 * success the response is a stream, with the execution's id in X-Execution-Id. */
int api_stream_start(struct api_call *call, enum events_format format, struct api_request *request,
                     struct err *err);

#endif
