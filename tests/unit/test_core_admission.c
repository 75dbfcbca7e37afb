/* Places are counted, handed out in order, and never lost: not by a cancel, not by a deadline. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "core/admission.h"

static const struct reservation none;

static struct admission *make(unsigned living, unsigned creates, unsigned queue)
{
    const struct admission_config config = {living, creates, queue};
    struct admission *admission = NULL;
    assert_int_equal(admission_new(&config, &admission, NULL), 0);
    return admission;
}

static void wait_for_waiting(struct admission *admission, unsigned count)
{
    struct admission_stats stats;
    do {
        (void)poll(NULL, 0, 1);
        admission_stats(admission, &stats);
    } while (stats.waiting < count);
}

static void both_bounds_hold(void **state)
{
    (void)state;
    struct admission *admission = make(2, 1, 0);
    struct err err = ERR_INIT;
    assert_int_equal(admission_acquire(admission, &none, INT64_MAX, -1, -1, &err), 0);
    assert_int_equal(admission_acquire(admission, &none, INT64_MAX, -1, -1, &err),
                     -ERR_UNAVAILABLE);
    assert_true(err.retry_after_s >= 1 && err.retry_after_s <= 60);
    assert_non_null(strstr(err.public_message, "1 of 2 sandboxes"));
    admission_created(admission);
    assert_int_equal(admission_acquire(admission, &none, INT64_MAX, -1, -1, &err), 0);
    admission_created(admission);
    assert_int_equal(admission_acquire(admission, &none, INT64_MAX, -1, -1, &err),
                     -ERR_UNAVAILABLE);
    admission_release(admission, &none);
    assert_int_equal(admission_acquire(admission, &none, INT64_MAX, -1, -1, &err), 0);
    admission_free(admission);
}

static void deadline_and_cancel_leave_the_queue(void **state)
{
    (void)state;
    struct admission *admission = make(1, 1, 10);
    struct admission_stats stats;
    assert_int_equal(admission_acquire(admission, &none, INT64_MAX, -1, -1, NULL), 0);
    assert_int_equal(
        admission_acquire(admission, &none, clock_now_ns() + 5 * CLOCK_NS_PER_MS, -1, -1, NULL),
        -ERR_UNAVAILABLE);
    int fd = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(admission_acquire(admission, &none, INT64_MAX, fd, -1, NULL), -ERR_CLOSED);
    assert_int_equal(admission_acquire(admission, &none, INT64_MAX, -1, fd, NULL), -ERR_CLOSED);
    (void)close(fd);
    admission_stats(admission, &stats);
    assert_int_equal(stats.waiting, 0);
    assert_int_equal(stats.living, 1);
    admission_created(admission);
    admission_release(admission, &none);
    assert_int_equal(admission_acquire(admission, &none, 0, -1, -1, NULL), 0);
    admission_free(admission);
}

struct guest {
    struct admission *admission;
    struct reservation reserve;
    pthread_t thread;
    unsigned place;
    bool cancels;
    int cancel_fd;
};

static _Atomic unsigned next_place;

static void *guest_main(void *context)
{
    struct guest *guest = context;
    if (admission_acquire(guest->admission, &guest->reserve, INT64_MAX,
                          guest->cancels ? guest->cancel_fd : -1, -1, NULL) != 0)
        return NULL;
    guest->place = ++next_place;
    admission_created(guest->admission);
    admission_release(guest->admission, &guest->reserve);
    return NULL;
}

static void first_come_first_served(void **state)
{
    (void)state;
    enum { COUNT = 8 };
    struct admission *admission = make(1, 1, COUNT);
    struct guest guests[COUNT];
    assert_int_equal(admission_acquire(admission, &none, INT64_MAX, -1, -1, NULL), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        guests[i] = (struct guest){.admission = admission};
        assert_int_equal(pthread_create(&guests[i].thread, NULL, guest_main, &guests[i]), 0);
        wait_for_waiting(admission, i + 1);
    }
    admission_created(admission);
    admission_release(admission, &none);
    for (unsigned i = 0; i < COUNT; i++)
        (void)pthread_join(guests[i].thread, NULL);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(guests[i].place, i + 1);
    struct admission_stats stats;
    admission_stats(admission, &stats);
    assert_int_equal(stats.living + stats.creating + stats.waiting, 0);
    admission_free(admission);
}

static struct admission *make_with_budget(uint64_t memory_bytes, uint64_t disk_bytes)
{
    struct admission *admission = make(1000, 1000, 100);
    const struct reservation budget = {memory_bytes, disk_bytes, 0};
    admission_set_budget(admission, &budget);
    return admission;
}

/* Takes a place and ends its creation. */
static int take(struct admission *admission, const struct reservation *reserve, struct err *err)
{
    int result = admission_acquire(admission, reserve, 0, -1, -1, err);
    if (result == 0)
        admission_created(admission);
    return result;
}

static void expect_reserved(struct admission *admission, unsigned living, uint64_t memory_bytes,
                            uint64_t disk_bytes)
{
    struct admission_stats stats;
    admission_stats(admission, &stats);
    assert_int_equal(stats.living, living);
    assert_int_equal(stats.reserved.memory_bytes, memory_bytes);
    assert_int_equal(stats.reserved.disk_bytes, disk_bytes);
}

static void reservations_are_counted(void **state)
{
    (void)state;
    struct admission *admission = make_with_budget(100, 50);
    const struct reservation in_memory = {60, 0, 0}, on_disk = {10, 30, 0}, too_much = {101, 0, 0},
                             too_wide = {1, 51, 0};
    struct err err = ERR_INIT;
    assert_int_equal(take(admission, &in_memory, &err), 0);
    assert_int_equal(take(admission, &on_disk, &err), 0);
    expect_reserved(admission, 2, 70, 30);
    assert_int_equal(take(admission, &in_memory, &err), -ERR_UNAVAILABLE);
    assert_non_null(strstr(err.public_message, "60 bytes of memory to reserve, 70 of 100"));
    assert_true(err.retry_after_s >= 1);
    assert_int_equal(take(admission, &on_disk, &err), -ERR_UNAVAILABLE);
    assert_non_null(strstr(err.public_message, "30 bytes of disk to reserve, 30 of 50"));
    assert_int_equal(take(admission, &too_much, &err), -ERR_BAD_INPUT);
    assert_non_null(strstr(err.public_message, "101 bytes of memory"));
    assert_int_equal(take(admission, &too_wide, &err), -ERR_BAD_INPUT);
    expect_reserved(admission, 2, 70, 30);
    admission_release(admission, &in_memory);
    expect_reserved(admission, 1, 10, 30);
    assert_int_equal(take(admission, &in_memory, &err), 0);
    admission_release(admission, &in_memory);
    admission_release(admission, &on_disk);
    expect_reserved(admission, 0, 0, 0);
    admission_free(admission);
}

static void a_smaller_budget_takes_nothing_back(void **state)
{
    (void)state;
    struct admission *admission = make_with_budget(100, 0);
    const struct reservation most = {90, 0, 0}, little = {1, 0, 0}, less = {50, 0, 0};
    struct err err = ERR_INIT;
    assert_int_equal(take(admission, &most, &err), 0);
    admission_set_budget(admission, &less);
    assert_int_equal(take(admission, &little, &err), -ERR_UNAVAILABLE);
    admission_release(admission, &most);
    assert_int_equal(take(admission, &little, &err), 0);
    admission_release(admission, &little);
    expect_reserved(admission, 0, 0, 0);
    admission_free(admission);
}

/* A large one waits first: small ones that would fit wait behind it, and come after it. */
static void small_ones_do_not_starve_a_large_one(void **state)
{
    (void)state;
    enum { COUNT = 5 };
    struct admission *admission = make_with_budget(100, 0);
    const struct reservation half = {50, 0, 0}, quarter = {25, 0, 0};
    struct guest guests[COUNT];
    next_place = 0;
    assert_int_equal(take(admission, &half, NULL), 0);
    assert_int_equal(take(admission, &quarter, NULL), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        guests[i] = (struct guest){.admission = admission, .reserve = {i == 0 ? 100 : 1, 0, 0}};
        assert_int_equal(pthread_create(&guests[i].thread, NULL, guest_main, &guests[i]), 0);
        wait_for_waiting(admission, i + 1);
    }
    admission_release(admission, &half);
    struct admission_stats stats;
    admission_stats(admission, &stats);
    assert_int_equal(stats.waiting, COUNT); /* 75 are free, and 1 byte still waits */
    admission_release(admission, &quarter);
    for (unsigned i = 0; i < COUNT; i++)
        (void)pthread_join(guests[i].thread, NULL);
    assert_int_equal(guests[0].place, 1);
    expect_reserved(admission, 0, 0, 0);
    admission_free(admission);
}

/* A large one that gives up makes way for those behind it. */
static void one_that_leaves_makes_way(void **state)
{
    (void)state;
    struct admission *admission = make_with_budget(100, 0);
    const struct reservation half = {50, 0, 0};
    struct guest small = {.admission = admission, .reserve = {10, 0, 0}};
    struct guest large = {.admission = admission, .reserve = {100, 0, 0}};
    int fd = eventfd(0, EFD_CLOEXEC);
    assert_int_equal(take(admission, &half, NULL), 0);
    large.place = 77; /* cancelled: stays as it is */
    large.cancel_fd = fd;
    large.cancels = true;
    assert_int_equal(pthread_create(&large.thread, NULL, guest_main, &large), 0);
    wait_for_waiting(admission, 1);
    assert_int_equal(pthread_create(&small.thread, NULL, guest_main, &small), 0);
    wait_for_waiting(admission, 2);
    uint64_t one = 1;
    assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
    (void)pthread_join(large.thread, NULL);
    (void)pthread_join(small.thread, NULL); /* hangs when nobody looked at the queue again */
    assert_int_equal(large.place, 77);
    expect_reserved(admission, 1, 50, 0);
    admission_release(admission, &half);
    (void)close(fd);
    admission_free(admission);
}

/* What one engine lacks keeps those of another from nothing; its own order stays. */
static void each_engine_has_its_budget(void **state)
{
    (void)state;
    struct admission *admission = make_with_budget(100, 40);
    const struct reservation other = {30, 0, 1}, half = {20, 0, 1}, on_disk = {1, 1, 1},
                             large = {40, 0, 1}, first = {90, 0, 0}, rest = {10, 0, 0};
    struct err err = ERR_INIT;
    admission_set_budget(admission, &other);
    assert_int_equal(take(admission, &large, &err), -ERR_BAD_INPUT);
    assert_non_null(strstr(err.public_message, "may have 30 and 0"));
    assert_int_equal(take(admission, &on_disk, &err), -ERR_BAD_INPUT); /* the disk is the first's */
    assert_int_equal(take(admission, &half, &err), 0);
    assert_int_equal(take(admission, &half, &err), -ERR_UNAVAILABLE);
    assert_non_null(strstr(err.public_message, "20 of 30 are reserved"));
    struct guest waits[2] = {{.admission = admission, .reserve = half},
                             {.admission = admission, .reserve = {5, 0, 1}}};
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&waits[i].thread, NULL, guest_main, &waits[i]), 0);
        wait_for_waiting(admission, i + 1); /* the second would fit, and is of the same engine */
    }
    assert_true(admission_has_waiters(admission, 1));
    assert_false(admission_has_waiters(admission, 0));
    assert_false(admission_would_wait(admission, &rest));
    assert_int_equal(take(admission, &rest, &err), 0);
    /* All together have no more than the largest one. */
    assert_int_equal(take(admission, &first, &err), -ERR_UNAVAILABLE);
    assert_non_null(strstr(err.public_message, "30 of 100 are reserved"));
    struct guest shares = {.admission = admission, .reserve = first};
    assert_int_equal(pthread_create(&shares.thread, NULL, guest_main, &shares), 0);
    wait_for_waiting(admission, 3);
    assert_true(admission_has_waiters(admission, 0));
    assert_true(admission_has_waiters(admission, 2)); /* it would have to leave him the room */
    admission_release(admission, &half);
    for (unsigned i = 0; i < 2; i++)
        (void)pthread_join(waits[i].thread, NULL);
    (void)pthread_join(shares.thread, NULL);
    assert_false(admission_has_waiters(admission, 0));
    assert_int_equal(take(admission, &first, &err), 0);
    expect_reserved(admission, 2, 100, 0);
    admission_release(admission, &first);
    admission_release(admission, &rest);
    admission_free(admission);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_bounds_hold),
        cmocka_unit_test(deadline_and_cancel_leave_the_queue),
        cmocka_unit_test(first_come_first_served),
        cmocka_unit_test(reservations_are_counted),
        cmocka_unit_test(a_smaller_budget_takes_nothing_back),
        cmocka_unit_test(small_ones_do_not_starve_a_large_one),
        cmocka_unit_test(one_that_leaves_makes_way),
        cmocka_unit_test(each_engine_has_its_budget),
    };
    return cmocka_run_group_tests_name("core_admission", tests, NULL, NULL);
}
