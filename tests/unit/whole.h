/* Core's calls that answer with an execution object, for tests that want all of its text at once.
 */
#ifndef BERTH_TESTS_WHOLE_H
#define BERTH_TESTS_WHOLE_H

#include "core/answer.h"
#include "core/core.h"
#include "core/session.h"

/* Appends the answer of a call that returned result, and gives it back. */
static inline int whole(int result, struct answer *answer, struct buf *out)
{
    int rest = result < 0 ? 0 : answer_rest(answer, out, NULL);
    answer_done(answer);
    return rest < 0 ? rest : result;
}

#define WHOLE(call, out)                                                                           \
    ({                                                                                             \
        struct answer answer_ = {0};                                                               \
        int result_ = call;                                                                        \
        whole(result_, &answer_, out);                                                             \
    })

#define whole_execute(core, request, sink, omit, out, err)                                         \
    WHOLE(core_execute(core, request, sink, omit, &answer_, err), out)
#define whole_session_execute(core, request, sink, omit, out, err)                                 \
    WHOLE(core_session_execute(core, request, sink, omit, &answer_, err), out)
#define whole_execution_get(core, owner, id, out, err)                                             \
    WHOLE(core_execution_get(core, owner, id, &answer_, err), out)
#define whole_execution_cancel(core, owner, id, out, err)                                          \
    WHOLE(core_execution_cancel(core, owner, id, &answer_, err), out)
#define whole_execution_follow(core, ask, sink, out, err)                                          \
    WHOLE(core_execution_follow(core, ask, sink, &answer_, err), out)

#endif
