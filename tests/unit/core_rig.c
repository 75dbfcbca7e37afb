/* Owns the folder and the figures of the core's tests. */
#include "check.h"

#include "core_rig.h"

#include <string.h>

#include "core/session.h"
#include "db_folder.h"
#include "engine/engine.h"
#include "engine/fake.h"
#include "lang/lang.h"

const struct lang rig_lang = {.name = "python",
                              .source = "main.py",
                              .run = {"python3", "{source}"},
                              .kernel = "python.py",
                              .at_start = {"PYTHON*", "LANG"},
                              .kernel_run = {"python3", "-c", "{kernel}"}};

int rig_make_folder(void **state)
{
    int result = db_folder_make(state);
    return result != 0 ? result : lang_load(NULL);
}

int rig_remove_folder(void **state)
{
    lang_unload();
    return db_folder_remove(state);
}

struct core_config rig_config(void)
{
    static const char *const engines[] = {"fake"};
    return (struct core_config){.db_path = db_path,
                                .engines = engines,
                                .engine_count = 1,
                                .engine_choice = true,
                                .sandboxes_max = 64,
                                .creates_max = 8,
                                .queue_max = 1000,
                                .queue_wait_ms = 60000,
                                .timeout_ms = 30000,
                                .timeout_max_ms = 60000,
                                .reserve_min_bytes = 16 << 20,
                                .memory_overcommit_millis = 16000,
                                .disk_overcommit_millis = 4000,
                                .memory_bytes = 512 << 20,
                                .storage_bytes = 256 << 20,
                                .cpu_millis = 1000,
                                .pids_max = 64,
                                .open_files_max = 1024,
                                .keep_output_bytes = 1 << 20,
                                .keep_messages_bytes = 1 << 20,
                                .output_max_bytes = 64 << 20,
                                .session_timeout_ms = 3600000,
                                .session_timeout_max_ms = 7200000,
                                .session_idle_ms = 600000,
                                .keep_outcome_ms = 3600000};
}

void rig_open(struct rig *rig, const struct core_config *config)
{
    struct err err = ERR_INIT;
    struct engine_events events;
    assert_ok(core_new(config, &rig->core, &err), err);
    core_engine_events(rig->core, 0, &events);
    assert_ok(engine_fake_new(&events, &rig->engine, &err), err);
    assert_ok(core_set_engine(rig->core, 0, rig->engine, &err), err);
}

void rig_make_session(struct core *core, const struct session_request *request,
                      char out_id[static ID_UUID_SIZE])
{
    struct err err = ERR_INIT;
    BUF_AUTO struct buf out;
    buf_init(&out, 65536);
    assert_ok(core_session_create(core, request, &out, &err), err);
    assert_non_null(strstr(buf_cstr(&out), "\"status\":\"active\""));
    (void)snprintf(out_id, ID_UUID_SIZE, "%.36s", buf_cstr(&out) + strlen("{\"session_id\":\""));
}

void rig_assert_parts(const char *what, const char *text, const char *const *parts)
{
    for (; *parts; parts++) {
        if (!strstr(text, *parts))
            fail_msg("%s: no %s in %s", what, *parts, text);
    }
}
