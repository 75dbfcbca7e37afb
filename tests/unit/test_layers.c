/* native/layers with a shell in the place of berth-unpack: names, the queue, what is removed when.
 */
#include "check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fd.h"
#include "base/mem.h"
#include "child.h"
#include "folder.h"
#include "native/layers.h"

enum { SIZE_MAX_BYTES = 8192, ANSWERS_MAX = 32 };

static struct {
    uint64_t request_id;
    enum err_kind kind;
    struct engine_layer layer;
} answers[ANSWERS_MAX];
static size_t answer_count;
static int store_fd = -1, program_fd = -1;

static void on_imported(void *context, uint64_t request_id, const struct engine_layer *layer,
                        const struct err *error)
{
    require(context == answers && answer_count < ANSWERS_MAX);
    answers[answer_count].request_id = request_id;
    answers[answer_count].kind = error ? error->kind : ERR_NONE;
    if (!error)
        answers[answer_count].layer = *layer;
    answer_count++;
}

/* What sh runs: a file that has the name of its first argument, the bound of the size. */
static void say(const char *script)
{
    char path[64];
    (void)snprintf(path, sizeof(path), "%s/%d", folder, SIZE_MAX_BYTES);
    FD_AUTO int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    require(fd >= 0 && write(fd, script, strlen(script)) == (ssize_t)strlen(script));
}

static struct layers *open_layers(void)
{
    struct err err = ERR_INIT;
    struct layers *layers = NULL;
    if (store_fd < 0) {
        char path[64];
        child_leave_mounts();
        require(chmod(folder, 0755) == 0 && chdir(folder) == 0);
        (void)snprintf(path, sizeof(path), "%s/store", folder);
        require(mkdir(path, 0700) == 0);
        store_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        program_fd = open("/bin/sh", O_PATH | O_CLOEXEC);
        require(store_fd >= 0 && program_fd >= 0);
    }
    const struct layers_config config = {.store_fd = store_fd,
                                         .unpack_fd = program_fd,
                                         .size_max_bytes = SIZE_MAX_BYTES,
                                         .entries_max = 10,
                                         .timeout_s = 60};
    require_ok(layers_open(&config, on_imported, answers, &layers, &err), err);
    answer_count = 0;
    return layers;
}

/* The folders of the store whose names begin so. */
static int count_folders(const char *prefix)
{
    int count = 0;
    DIR *dir = fdopendir(openat(store_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    require(dir != NULL);
    const struct dirent *entry = NULL;
    while ((entry = readdir(dir)))
        count += entry->d_name[0] != '.' && strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    (void)closedir(dir);
    return count;
}

static int import_named(struct layers *layers, const char *name, uint64_t request_id,
                        uint64_t size_max_bytes)
{
    struct err err = ERR_INIT;
    struct engine_msg request = {.request_id = request_id, .size_max_bytes = size_max_bytes};
    (void)snprintf(request.layer.name, sizeof(request.layer.name), "%s", name);
    int tar_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int result = layers_import(layers, &request, &tar_fd, &err);
    require(tar_fd == -1);
    return result;
}

static void wait_event(const struct layers *layers)
{
    struct pollfd poller = {.fd = layers_event_fd(layers), .events = POLLIN};
    require(poll(&poller, 1, 60000) == 1);
}

static void step_until_answered(struct layers *layers, size_t count)
{
    (void)layers_step(layers);
    while (answer_count < count) {
        wait_event(layers);
        (void)layers_step(layers);
    }
}

static void step_until_folders(struct layers *layers, int count)
{
    (void)layers_step(layers);
    while (count_folders("") != count) {
        wait_event(layers);
        (void)layers_step(layers);
    }
}

static void queue(void *context)
{
    (void)context;
    struct layers *layers = open_layers();
    say("[ \"$1 $2\" = '10 layer' ] && printf 'D2 4096 0'");
    require(import_named(layers, "one", 1, 0) == 0);
    require(import_named(layers, "two", 2, UINT64_MAX) == 0);
    require(import_named(layers, "one", 3, 0) == 0);
    require(import_named(layers, "../x", 4, 0) == -ERR_BAD_INPUT);
    step_until_answered(layers, 3);
    for (size_t i = 0; i < 3; i++)
        require(answers[i].request_id == i + 1);
    require(answers[0].kind == ERR_NONE && answers[1].kind == ERR_NONE);
    require(answers[2].kind == ERR_CONFLICT);
    require(strcmp(answers[1].layer.name, "two") == 0 && answers[1].layer.size_bytes == 4096);
    require(import_named(layers, "one", 5, 0) == -ERR_CONFLICT);
    char name[16];
    for (int i = 0; i < LAYERS_QUEUE_MAX; i++) {
        (void)snprintf(name, sizeof(name), "n%d", i);
        require(import_named(layers, name, 10, 0) == 0);
    }
    require(import_named(layers, "last", 11, 0) == -ERR_UNAVAILABLE);
    /* Nobody waits for them any more. */
    layers_forget_requests(layers);
    (void)layers_step(layers);
    require(import_named(layers, "three", 12, 0) == 0);
    step_until_answered(layers, 4);
    require(answers[3].request_id == 12 && answers[3].kind == ERR_NONE);
    struct engine_msg list = {0};
    require(layers_list(layers, "one", &list, NULL) == 0);
    require(list.layer_count == 2 && !list.more);
    require(strcmp(list.layers[0].name, "three") == 0);
    engine_msg_done(&list);
    layers_free(layers);
}

static void forgotten(void *context)
{
    (void)context;
    struct layers *layers = open_layers();
    say("printf 'D2 4096 0'");
    require(import_named(layers, "one", 1, 0) == 0);
    (void)layers_step(layers); /* it is being unpacked */
    layers_forget_requests(layers);
    require(import_named(layers, "two", 2, 0) == 0);
    step_until_answered(layers, 1);
    require(answers[0].request_id == 2);
    struct layer layer = {.root_fd = -1, .lock_fd = -1};
    require(layers_take(layers, "one", &layer, NULL) == 0); /* whole all the same */
    layers_free(layers);
}

static void liars(void *context)
{
    static const char *const scripts[] = {"printf 'D1 8193 0'",   "printf 'D1'",
                                          "printf 'D1 1 1 1 '",   "printf 'D1 x 0'",
                                          "printf 'Bno'; exit 1", "exit 0"};
    static const enum err_kind kinds[] = {ERR_INTERNAL, ERR_INTERNAL,  ERR_NONE,
                                          ERR_INTERNAL, ERR_BAD_INPUT, ERR_INTERNAL};
    (void)context;
    struct layers *layers = open_layers();
    layers_all_held(layers);
    for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
        say(scripts[i]);
        require(import_named(layers, "one", 1, 0) == 0);
        step_until_answered(layers, i + 1);
        require(answers[i].kind == kinds[i]);
        require(layers_remove(layers, "one", NULL) == 0);
        step_until_folders(layers, 0);
    }
    layers_free(layers);
}

static void remembered(void *context)
{
    (void)context;
    struct layers *layers = open_layers();
    say("printf 'D2 8192 0'");
    require(import_named(layers, "one", 1, 0) == 0);
    step_until_answered(layers, 1);
    layers_free(layers);
    /* What is neither is left alone or not taken for one. */
    require(mkdirat(store_fd, "mine", 0700) == 0);
    require(mkdirat(store_fd, "x.y", 0700) == 0);
    require(mkdirat(store_fd, "Two.0123456789abcdef", 0700) == 0);
    layers = open_layers();
    struct engine_msg list = {0};
    require(layers_list(layers, "", &list, NULL) == 0);
    require(list.layer_count == 1 && list.layers[0].size_bytes == 8192);
    engine_msg_done(&list);
    require(import_named(layers, "one", 1, 0) == -ERR_CONFLICT);
    layers_all_held(layers);
    step_until_folders(layers, 3);
    require(count_folders("Two") == 0 && count_folders("mine") == 1 && count_folders("x.y") == 1);
    layers_free(layers);
}

static void removed_in_use(void *context)
{
    (void)context;
    struct layer layer = {.root_fd = -1, .lock_fd = -1};
    int held_fd = -1;
    struct layers *layers = open_layers();
    say("printf 'D2 0 0'");
    require(import_named(layers, "one", 1, 0) == 0);
    step_until_answered(layers, 1);
    require(layers_take(layers, "one", &layer, NULL) == 0);
    require(layers_take(layers, "two", &layer, NULL) == -ERR_NOT_FOUND);
    layers_all_held(layers);
    require(layers_remove(layers, "one", NULL) == 0);
    require(layers_remove(layers, "one", NULL) == 0);
    require(layers_take(layers, "one", &layer, NULL) == -ERR_NOT_FOUND);
    (void)layers_step(layers);
    require(count_folders("one.") == 1);
    /* A new one of that name is another one. */
    require(import_named(layers, "one", 2, 0) == 0);
    step_until_answered(layers, 2);
    require(count_folders("one.") == 2);
    /* A new engine knows what is shown by its folder's first name. */
    layers_free(layers);
    layers = open_layers();
    require(layers_hold(layers, layer.folder, &held_fd, NULL) == 0 && held_fd >= 0);
    require(layers_hold(layers, "one.0000000000000000", &layer.root_fd, NULL) == 0);
    require(layer.root_fd == -1);
    require(layers_hold(layers, "../store", &layer.root_fd, NULL) == 0 && layer.root_fd == -1);
    fd_close(&layer.lock_fd);
    layers_all_held(layers);
    (void)layers_step(layers);
    require(count_folders("one.") == 2);
    fd_close(&held_fd);
    layers_look_again(layers);
    step_until_folders(layers, 1);
    layers_free(layers);
}

static void nothing_goes_too_early(void *context)
{
    (void)context;
    require(store_fd < 0);
    struct layers *layers = open_layers();
    require(mkdirat(store_fd, "one.01234567.partial", 0700) == 0);
    (void)layers_step(layers);
    require(count_folders("one.") == 1);
    layers_all_held(layers);
    step_until_folders(layers, 0);
    layers_free(layers);
    require(fchmod(store_fd, 0755) == 0); /* others could come near */
    const struct layers_config config = {.store_fd = store_fd, .unpack_fd = program_fd};
    require(layers_open(&config, on_imported, NULL, &layers, NULL) == -ERR_INTERNAL);
}

struct test_case {
    void (*fn)(void *context);
};

static void run_case(void **state)
{
    skip_unless_root();
    const struct test_case *one = *state;
    (void)folder_make(NULL);
    int status = child_run(one->fn, NULL);
    (void)folder_remove(NULL);
    assert_int_equal(status, 0);
}

int main(void)
{
    static struct test_case cases[] = {{queue},      {forgotten},      {liars},
                                       {remembered}, {removed_in_use}, {nothing_goes_too_early}};
    const struct CMUnitTest tests[] = {
        {"queue", run_case, NULL, NULL, &cases[0]},
        {"forgotten", run_case, NULL, NULL, &cases[1]},
        {"liars", run_case, NULL, NULL, &cases[2]},
        {"remembered", run_case, NULL, NULL, &cases[3]},
        {"removed_in_use", run_case, NULL, NULL, &cases[4]},
        {"nothing_goes_too_early", run_case, NULL, NULL, &cases[5]},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
