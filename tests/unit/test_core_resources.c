/* core/resources: every combination of memory, storage and what the host can do comes to a root in
 * memory, one on disk, or a refusal with the right field; and the arithmetic of reservations. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "core/core.h"
#include "core/resources.h"
#include "engine/engine.h"

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define ALL                                                                                        \
    (ENGINE_CAP_MEMORY | ENGINE_CAP_CPU | ENGINE_CAP_PIDS | ENGINE_CAP_STORAGE | ENGINE_CAP_DISK)

/* The defaults of the settings. */
static struct core_config config_of_defaults(void)
{
    return (struct core_config){.memory_bytes = 512 * MIB,
                                .storage_bytes = 256 * MIB,
                                .cpu_millis = 1000,
                                .reserve_min_bytes = 16 * MIB,
                                .memory_overcommit_millis = 16000,
                                .disk_overcommit_millis = 4000};
}

static struct engine_info host_of(uint64_t capabilities)
{
    struct engine_info info = {.capabilities = capabilities,
                               .memory_bytes = 8 * GIB,
                               .cpu_millis = 4000,
                               .storage_bytes = 4 * GIB,
                               .disk_bytes = (capabilities & ENGINE_CAP_DISK) ? 64 * GIB : 0};
    if (capabilities != ALL)
        (void)snprintf(info.missing, sizeof(info.missing), "the kernel lacks it");
    return info;
}

enum verdict { MEMORY, DISK, REFUSED };

/* What the contract says, written down once more and in another way than the code does. */
static enum verdict verdict_of(uint64_t ram, uint64_t storage, bool needs_disk, bool has_disk)
{
    uint64_t half = (ram != 0 ? ram : 512 * MIB) / 2;
    if (needs_disk)
        return has_disk && storage <= 64 * GIB ? DISK : REFUSED;
    if (storage <= half && storage <= 4 * GIB)
        return MEMORY;
    return has_disk && storage <= 64 * GIB ? DISK : REFUSED;
}

static void test_every_combination(void **state)
{
    (void)state;
    static const uint64_t rams[] = {0, 16 * MIB, 64 * MIB, 512 * MIB, 4 * GIB, 8 * GIB};
    static const uint64_t storages[] = {
        0,       64 << 10, 8 * MIB,     8 * MIB + 1, 32 * MIB,     256 * MIB, 256 * MIB + 1,
        2 * GIB, 4 * GIB,  4 * GIB + 1, 64 * GIB,    64 * GIB + 1, 1024 * GIB};
    const struct core_config config = config_of_defaults();
    unsigned seen[3] = {0};
    for (size_t i = 0; i < ARRAY_SIZE(rams) * ARRAY_SIZE(storages) * 4; i++) {
        const struct engine_info info = host_of(i & 1 ? ALL : ALL & ~ENGINE_CAP_DISK);
        const struct resources_ask ask = {.memory_bytes = rams[i / 4 % ARRAY_SIZE(rams)],
                                          .storage_bytes = storages[i / 4 / ARRAY_SIZE(rams)],
                                          .needs_disk = (i & 2) != 0};
        enum verdict wanted =
            verdict_of(ask.memory_bytes, ask.storage_bytes, ask.needs_disk, i & 1);
        struct resources plan;
        struct err err = ERR_INIT;
        int result = resources_plan(&config, &info, &ask, &plan, &err);
        enum verdict got = result < 0 ? REFUSED : plan.disk ? DISK : MEMORY;
        if (got != wanted)
            fail_msg("ram %llu storage %llu needs %d has %d: %d, wanted %d (%s)",
                     (unsigned long long)ask.memory_bytes, (unsigned long long)ask.storage_bytes,
                     ask.needs_disk, (int)(i & 1), (int)got, (int)wanted, err.message);
        seen[got]++;
        if (got == REFUSED) {
            assert_non_null(strstr(err.public_message, ask.needs_disk && !(i & 1)
                                                           ? "files can't be kept"
                                                           : "resources.storage: "));
            continue;
        }
        assert_true(plan.memory_bytes == (ask.memory_bytes ? ask.memory_bytes : 512 * MIB));
        if (ask.storage_bytes)
            assert_true(plan.storage_bytes == ask.storage_bytes);
        else
            assert_true(plan.storage_bytes > 0 && plan.storage_bytes <= 256 * MIB);
        assert_true(plan.disk || plan.storage_bytes <= plan.memory_bytes / 2);
        assert_int_equal(plan.reserve.disk_bytes, plan.disk ? (plan.storage_bytes + 3) / 4 : 0);
    }
    for (size_t i = 0; i < ARRAY_SIZE(seen); i++)
        assert_true(seen[i] > 5);
}

static void refused(const struct core_config *config, const struct engine_info *info,
                    const struct resources_ask *ask, enum err_kind kind, const char *const *words)
{
    struct resources plan;
    struct err err = ERR_INIT;
    assert_fails(resources_plan(config, info, ask, &plan, &err), kind, err);
    for (; *words; words++) {
        if (!strstr(err.public_message, *words))
            fail_msg("no \"%s\" in: %s", *words, err.public_message);
    }
}

#define REFUSED_WITH(config, info, kind, ask, ...)                                                 \
    refused(config, info, &(struct resources_ask)ask, kind,                                        \
            (const char *const[]){__VA_ARGS__, NULL})
#define ASK(...)                                                                                   \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static void test_refusals_name_the_figures(void **state)
{
    (void)state;
    const struct core_config config = config_of_defaults();
    const struct engine_info disk = host_of(ALL);
    const struct engine_info plain = host_of(ALL & ~ENGINE_CAP_DISK);
    /* asked, there is, would be right */
    REFUSED_WITH(&config, &plain, ERR_BAD_INPUT,
                 ASK(.memory_bytes = 64 * MIB, .storage_bytes = 33 * MIB), "34603008", "67108864",
                 "33554432 at most", "resources.ram of 69206016");
    REFUSED_WITH(&config, &plain, ERR_BAD_INPUT, ASK(.storage_bytes = 5 * GIB), "5368709120",
                 "4294967296 in memory and none on disk", "the kernel lacks it");
    REFUSED_WITH(&config, &disk, ERR_BAD_INPUT, ASK(.storage_bytes = 65 * GIB), "69793218560",
                 "68719476736 on disk", "268435456 in memory");
    REFUSED_WITH(&config, &disk, ERR_BAD_INPUT, ASK(.memory_bytes = 8 * GIB + 1), "resources.ram",
                 "8589934593", "8589934592");
    REFUSED_WITH(&config, &disk, ERR_BAD_INPUT, ASK(.memory_bytes = MIB), "resources.ram",
                 "1048576 bytes are too few", "16777216");
    REFUSED_WITH(&config, &disk, ERR_BAD_INPUT, ASK(.storage_bytes = 1), "resources.storage",
                 "too few");
    REFUSED_WITH(&config, &disk, ERR_BAD_INPUT, ASK(.cpu_millis = 4001), "resources.cpu", "4001",
                 "this host has 4000");
    REFUSED_WITH(&config, &disk, ERR_BAD_INPUT, ASK(.cpu_millis = 1), "resources.cpu", "10");
    struct engine_info gpus = disk;
    REFUSED_WITH(&config, &gpus, ERR_UNSUPPORTED, ASK(.gpu_count = 1), "resources.gpu", "none");
    gpus.gpu_count = 2; /* without the capability there are none */
    REFUSED_WITH(&config, &gpus, ERR_UNSUPPORTED, ASK(.gpu_count = 1), "resources.gpu", "none");
    gpus.capabilities |= ENGINE_CAP_GPU;
    REFUSED_WITH(&config, &gpus, ERR_BAD_INPUT, ASK(.gpu_count = 3), "resources.gpu", "has 2");
}

/* A limit that is named and that nobody would enforce is refused; a default is taken. */
static void test_what_cannot_be_enforced(void **state)
{
    (void)state;
    const struct core_config config = config_of_defaults();
    static const struct {
        uint64_t capability;
        struct resources_ask ask;
        const char *word;
    } table[] = {
        {ENGINE_CAP_MEMORY, {.memory_bytes = 64 * MIB}, "resources.ram: this host can't enforce"},
        {ENGINE_CAP_CPU, {.cpu_millis = 500}, "resources.cpu: this host can't enforce"},
        {ENGINE_CAP_STORAGE, {.storage_bytes = MIB}, "resources.storage: this host can't enforce"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        const struct engine_info lacks = host_of(ALL & ~table[i].capability);
        const struct engine_info has = host_of(ALL);
        const struct resources_ask nothing = {0};
        struct resources plan;
        struct err err = ERR_INIT;
        refused(&config, &lacks, &table[i].ask, ERR_UNSUPPORTED,
                (const char *const[]){table[i].word, "the kernel lacks it", NULL});
        assert_ok(resources_plan(&config, &has, &table[i].ask, &plan, &err), err);
        assert_ok(resources_plan(&config, &lacks, &nothing, &plan, &err), err);
    }
    struct engine_info mute = host_of(0);
    mute.missing[0] = '\0';
    REFUSED_WITH(&config, &mute, ERR_UNSUPPORTED, ASK(.cpu_millis = 500), "does not say why");
    uint64_t capability = 0;
    assert_string_equal(resources_name(0, &capability), "ram");
    assert_true(capability == ENGINE_CAP_MEMORY);
    assert_null(resources_name(4, &capability));
}

static void assert_missing(const struct engine_info *info, const char *what, const char *wanted)
{
    char why[RESOURCES_MISSING_SIZE];
    resources_missing(info, what, why);
    assert_string_equal(why, wanted);
}

/* Of several things that a host lacks, an answer says the one that was asked for. */
static void test_the_reason_is_the_right_one(void **state)
{
    (void)state;
    const struct core_config config = config_of_defaults();
    struct engine_info info = host_of(0);
    (void)snprintf(info.missing, sizeof(info.missing),
                   "own_files: %0150d; ram, cpu: no control groups; not today; disk_x: not this;"
                   " container, disk, images: an ordinary user: can't; private_ids: one id",
                   7);
    assert_missing(&info, "ram", "no control groups; not today");
    assert_missing(&info, "cpu", "no control groups; not today");
    assert_missing(&info, "disk", "an ordinary user: can't");
    assert_missing(&info, "container", "an ordinary user: can't");
    assert_missing(&info, "private_ids", "one id");
    REFUSED_WITH(&config, &info, ERR_UNSUPPORTED, ASK(.cpu_millis = 500),
                 "resources.cpu: this host can't enforce it: no control groups; not today");
    REFUSED_WITH(&config, &info, ERR_UNSUPPORTED, ASK(.needs_disk = true),
                 "on disk: an ordinary user: can't");
    info.capabilities = ALL & ~ENGINE_CAP_DISK;
    REFUSED_WITH(&config, &info, ERR_BAD_INPUT, ASK(.storage_bytes = 5 * GIB),
                 "none on disk: an ordinary user: can't");
    /* No clause of it: all, as far as there is room. */
    char all[RESOURCES_MISSING_SIZE];
    (void)snprintf(all, sizeof(all), "%.*s", RESOURCES_MISSING_SIZE - 1, info.missing);
    assert_missing(&info, "pids", all);
    assert_missing(&info, "", all);
    (void)snprintf(info.missing, sizeof(info.missing), "disk");
    assert_missing(&info, "disk", "disk");
}

static uint64_t runtime_bytes;

static uint64_t reserve_of(const struct core_config *config, uint64_t memory_bytes)
{
    struct engine_info info = host_of(ALL);
    info.runtime_memory_bytes = runtime_bytes;
    const struct resources_ask ask = {.memory_bytes = memory_bytes};
    struct resources plan;
    struct err err = ERR_INIT;
    assert_ok(resources_plan(config, &info, &ask, &plan, &err), err);
    return plan.reserve.memory_bytes;
}

static void test_reservations(void **state)
{
    (void)state;
    struct core_config config = config_of_defaults();
    assert_true(reserve_of(&config, 512 * MIB) == 32 * MIB);
    assert_true(reserve_of(&config, 64 * MIB) == 16 * MIB); /* not below the least */
    runtime_bytes = 32 * MIB;                               /* nobody overcommits that */
    assert_true(reserve_of(&config, 512 * MIB) == 64 * MIB);
    assert_true(reserve_of(&config, 64 * MIB) == 48 * MIB);
    runtime_bytes = 0;
    config.memory_overcommit_millis = 1500;
    assert_true(reserve_of(&config, 300 * MIB) == 200 * MIB);
    assert_true(reserve_of(&config, 100 * MIB + 1) == (100 * MIB + 1) * 2 / 3 + 1); /* up */
    config.memory_overcommit_millis = 1000;
    assert_true(reserve_of(&config, 300 * MIB) == 300 * MIB);
    /* The whole budget is four fifths of the host's, or the operator's figure. */
    struct engine_info info = host_of(ALL);
    assert_true(resources_budget(&config, &info).memory_bytes == info.memory_bytes / 5 * 4);
    assert_true(resources_budget(&config, &info).disk_bytes == info.disk_bytes / 5 * 4);
    REFUSED_WITH(&config, &info, ERR_BAD_INPUT, ASK(.memory_bytes = 8 * GIB),
                 "resources.ram: 8589934592 bytes reserve 8589934592", "6871947672");
    config.disk_budget_bytes = GIB;
    config.memory_budget_bytes = 200 * MIB;
    config.memory_overcommit_millis = 16000;
    assert_true(resources_budget(&config, &info).memory_bytes == 200 * MIB);
    REFUSED_WITH(&config, &info, ERR_BAD_INPUT, ASK(.storage_bytes = 5 * GIB),
                 "resources.storage: 5368709120 bytes reserve 1342177280", "1073741824");
}

/* A disk of no known size is in no budget, unless the operator says one. */
static void test_a_disk_of_unknown_size(void **state)
{
    (void)state;
    struct core_config config = config_of_defaults();
    struct engine_info info = host_of(ALL);
    const struct resources_ask ask = {.storage_bytes = 4 * GIB};
    struct resources plan;
    struct err err = ERR_INIT;
    info.storage_bytes = 0;
    info.disk_bytes = ENGINE_DISK_UNKNOWN;
    assert_ok(resources_plan(&config, &info, &ask, &plan, &err), err);
    assert_true(plan.disk_only);
    assert_int_equal(plan.reserve.disk_bytes, 0);
    assert_int_equal(resources_budget(&config, &info).disk_bytes, 0);
    config.disk_budget_bytes = 2 * GIB;
    assert_ok(resources_plan(&config, &info, &ask, &plan, &err), err);
    assert_true(plan.reserve.disk_bytes == GIB);
    assert_true(resources_budget(&config, &info).disk_bytes == 2 * GIB);
}

/* What the defaults are chosen for. */
static void test_500_sessions_fit_in_24_gb(void **state)
{
    (void)state;
    const struct core_config config = config_of_defaults();
    struct engine_info info = host_of(ALL);
    info.memory_bytes = UINT64_C(24000000000); /* GB as disks count them, the smaller of the two */
    const struct resources_ask ask = {.memory_bytes = 512 * MIB};
    struct resources plan;
    struct err err = ERR_INIT;
    assert_ok(resources_plan(&config, &info, &ask, &plan, &err), err);
    assert_true(500 * plan.reserve.memory_bytes <= resources_budget(&config, &info).memory_bytes);
    const struct admission_config places = {.living_max = 512, .creates_max = 512, .queue_max = 0};
    const struct reservation budget = resources_budget(&config, &info);
    struct admission *admission = NULL;
    assert_ok(admission_new(&places, &admission, &err), err);
    admission_set_budget(admission, &budget);
    for (int i = 0; i < 500; i++)
        assert_ok(admission_acquire(admission, &plan.reserve, 0, -1, -1, &err), err);
    admission_free(admission);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_combination),
        cmocka_unit_test(test_refusals_name_the_figures),
        cmocka_unit_test(test_what_cannot_be_enforced),
        cmocka_unit_test(test_the_reason_is_the_right_one),
        cmocka_unit_test(test_reservations),
        cmocka_unit_test(test_a_disk_of_unknown_size),
        cmocka_unit_test(test_500_sessions_fit_in_24_gb),
    };
    return cmocka_run_group_tests_name("core_resources", tests, NULL, NULL);
}
