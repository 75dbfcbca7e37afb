/* Places are counted, handed out in order, and never lost: not by a cancel, not by a deadline. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "core/admission.h"

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
    assert_int_equal(admission_acquire(admission, INT64_MAX, -1, -1, &err), 0);
    assert_int_equal(admission_acquire(admission, INT64_MAX, -1, -1, &err), -ERR_UNAVAILABLE);
    assert_true(err.retry_after_s >= 1 && err.retry_after_s <= 60);
    assert_non_null(strstr(err.public_message, "1 of 2 sandboxes"));
    admission_created(admission);
    assert_int_equal(admission_acquire(admission, INT64_MAX, -1, -1, &err), 0);
    admission_created(admission);
    assert_int_equal(admission_acquire(admission, INT64_MAX, -1, -1, &err), -ERR_UNAVAILABLE);
    admission_release(admission);
    assert_int_equal(admission_acquire(admission, INT64_MAX, -1, -1, &err), 0);
    admission_free(admission);
}

static void deadline_and_cancel_leave_the_queue(void **state)
{
    (void)state;
    struct admission *admission = make(1, 1, 10);
    struct admission_stats stats;
    assert_int_equal(admission_acquire(admission, INT64_MAX, -1, -1, NULL), 0);
    assert_int_equal(
        admission_acquire(admission, clock_now_ns() + 5 * CLOCK_NS_PER_MS, -1, -1, NULL),
        -ERR_UNAVAILABLE);
    int fd = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(admission_acquire(admission, INT64_MAX, fd, -1, NULL), -ERR_CLOSED);
    assert_int_equal(admission_acquire(admission, INT64_MAX, -1, fd, NULL), -ERR_CLOSED);
    (void)close(fd);
    admission_stats(admission, &stats);
    assert_int_equal(stats.waiting, 0);
    assert_int_equal(stats.living, 1);
    admission_created(admission);
    admission_release(admission);
    assert_int_equal(admission_acquire(admission, 0, -1, -1, NULL), 0);
    admission_free(admission);
}

struct guest {
    struct admission *admission;
    pthread_t thread;
    unsigned place;
};

static _Atomic unsigned next_place;

static void *guest_main(void *context)
{
    struct guest *guest = context;
    if (admission_acquire(guest->admission, INT64_MAX, -1, -1, NULL) != 0)
        return NULL;
    guest->place = ++next_place;
    admission_created(guest->admission);
    admission_release(guest->admission);
    return NULL;
}

static void first_come_first_served(void **state)
{
    (void)state;
    enum { COUNT = 8 };
    struct admission *admission = make(1, 1, COUNT);
    struct guest guests[COUNT];
    assert_int_equal(admission_acquire(admission, INT64_MAX, -1, -1, NULL), 0);
    for (unsigned i = 0; i < COUNT; i++) {
        guests[i] = (struct guest){.admission = admission};
        assert_int_equal(pthread_create(&guests[i].thread, NULL, guest_main, &guests[i]), 0);
        wait_for_waiting(admission, i + 1);
    }
    admission_created(admission);
    admission_release(admission);
    for (unsigned i = 0; i < COUNT; i++)
        (void)pthread_join(guests[i].thread, NULL);
    for (unsigned i = 0; i < COUNT; i++)
        assert_int_equal(guests[i].place, i + 1);
    struct admission_stats stats;
    admission_stats(admission, &stats);
    assert_int_equal(stats.living + stats.creating + stats.waiting, 0);
    admission_free(admission);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_bounds_hold),
        cmocka_unit_test(deadline_and_cancel_leave_the_queue),
        cmocka_unit_test(first_come_first_served),
    };
    return cmocka_run_group_tests_name("core_admission", tests, NULL, NULL);
}
