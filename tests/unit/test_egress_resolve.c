/* egress/resolve: whose names are looked up when many wait, what is kept and for whom, and what is
 * cancelled. The host's resolver is a stub that hangs for as long as a test wants. */
#include "check.h"

#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "egress/resolve.h"

enum { SANDBOXES = 25, OF_EACH = 4, WAIT_MS = 20000 };

/* ---- the stub ---- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool hanging;
static unsigned looked_up, hung, running[SANDBOXES], most_of_all, most_of_one;

/* A name that hangs is that of its sandbox: "s7.example". */
int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **out)
{
    unsigned sandbox = 0;
    (void)service;
    (void)hints;
    (void)pthread_mutex_lock(&lock);
    looked_up++;
    if (host[0] == 's') {
        sandbox = (unsigned)strtoul(host + 1, NULL, 10);
        running[sandbox]++;
        hung++;
        most_of_one = running[sandbox] > most_of_one ? running[sandbox] : most_of_one;
        most_of_all = hung > most_of_all ? hung : most_of_all;
        while (hanging)
            (void)pthread_cond_wait(&changed, &lock);
        running[sandbox]--;
        hung--;
    }
    (void)pthread_mutex_unlock(&lock);
    if (strcmp(host, "nowhere.example") == 0)
        return EAI_NONAME;
    struct addrinfo *found = calloc(1, sizeof(*found));
    struct sockaddr_in *address = calloc(1, sizeof(*address));
    if (!found || !address)
        abort();
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(0xc6336407);
    found->ai_addr = (struct sockaddr *)address;
    *out = found;
    return 0;
}

void freeaddrinfo(struct addrinfo *found)
{
    free(found->ai_addr);
    free(found);
}

/* This host's configuration is of no matter; the C library's lock around it is none that
 * ThreadSanitizer sees. */
int res_init(void)
{
    return -1;
}

static void set_hanging(bool hangs)
{
    (void)pthread_mutex_lock(&lock);
    hanging = hangs;
    (void)pthread_cond_broadcast(&changed);
    (void)pthread_mutex_unlock(&lock);
}

static unsigned read_locked(const unsigned *what)
{
    (void)pthread_mutex_lock(&lock);
    unsigned value = *what;
    (void)pthread_mutex_unlock(&lock);
    return value;
}

static void wait_until_hung(unsigned count)
{
    for (int i = 0; i < WAIT_MS && read_locked(&hung) != count; i++)
        (void)poll(NULL, 0, 1);
    assert_int_equal(read_locked(&hung), count);
}

/* ---- the resolver, which lives as long as its process ---- */

static struct resolver *resolver;
static int wake_fd;

static int start(void **state)
{
    struct err err = ERR_INIT;
    (void)state;
    wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return wake_fd >= 0 && resolver_new(wake_fd, &resolver, &err) == 0 ? 0 : -1;
}

static void count_answer(void *context, const struct resolved *resolved)
{
    unsigned *count = context;
    assert_true(resolved->failure != 0 || resolved->count == 1);
    *count += resolved->failure == 0 ? 1 : 100;
}

/* Hands out answers until *count has come to wanted. */
static void finish_until(const unsigned *count, unsigned wanted)
{
    while (*count < wanted) {
        struct pollfd ready = {.fd = wake_fd, .events = POLLIN};
        uint64_t number = 0;
        assert_int_equal(poll(&ready, 1, WAIT_MS), 1);
        assert_int_equal(read(wake_fd, &number, sizeof(number)), sizeof(number));
        resolver_finish(resolver);
    }
    assert_int_equal(*count, wanted);
}

static struct lookup *ask(const char *host, unsigned sandbox, const char *owner, unsigned *count)
{
    char id[16];
    (void)snprintf(id, sizeof(id), "box%u", sandbox);
    struct lookup *lookup = resolver_ask(resolver, host, id, owner, count_answer, count);
    assert_non_null(lookup);
    return lookup;
}

/* Names that hang, in turns of the sandboxes of one owner. */
static void ask_for_many(struct lookup *out[SANDBOXES * OF_EACH], const char *owner,
                         unsigned *count)
{
    for (unsigned i = 0; i < SANDBOXES * OF_EACH; i++) {
        char host[32];
        (void)snprintf(host, sizeof(host), "s%u.example", i / OF_EACH);
        out[i] = ask(host, i / OF_EACH, owner, count);
    }
}

static void names_that_hang_hold_up_nobody_else(void **state)
{
    struct lookup *lookups[SANDBOXES * OF_EACH];
    unsigned slow = 0, quick = 0;
    (void)state;
    set_hanging(true);
    ask_for_many(lookups, "one", &slow);
    wait_until_hung(8);
    for (unsigned i = 1; i <= 20; i++) {
        char host[32];
        (void)snprintf(host, sizeof(host), "quick%u.example", i);
        (void)ask(host, 100, "two", &quick);
        finish_until(&quick, i);
    }
    assert_int_equal(slow, 0);
    assert_int_equal(read_locked(&hung), 8);
    set_hanging(false);
    finish_until(&slow, SANDBOXES * OF_EACH);
    assert_int_equal(most_of_all, 8);
    assert_int_equal(most_of_one, 2);
}

static void what_is_cancelled_is_not_told_of(void **state)
{
    struct lookup *lookups[SANDBOXES * OF_EACH];
    unsigned never = 0, count = 0;
    (void)state;
    set_hanging(true);
    ask_for_many(lookups, "three", &never); /* not kept for this owner */
    wait_until_hung(8);
    unsigned before = read_locked(&looked_up);
    for (unsigned i = 0; i < SANDBOXES * OF_EACH; i++)
        resolver_cancel(resolver, lookups[i]); /* those that wait, and those that are looked up */
    resolver_cancel(resolver, NULL);
    set_hanging(false);
    wait_until_hung(0);
    (void)ask("after.example", 1, "three", &count);
    finish_until(&count, 1);
    assert_int_equal(never, 0);
    assert_int_equal(read_locked(&looked_up), before + 1);
}

static void answers_are_kept_for_one_owner(void **state)
{
    unsigned count = 0;
    (void)state;
    (void)ask("kept.example", 1, "four", &count);
    finish_until(&count, 1);
    unsigned before = read_locked(&looked_up);
    (void)ask("kept.example", 2, "four", &count);
    finish_until(&count, 2);
    assert_int_equal(read_locked(&looked_up), before);
    (void)ask("kept.example", 1, "five", &count);
    finish_until(&count, 3);
    assert_int_equal(read_locked(&looked_up), before + 1);
    for (unsigned i = 1; i <= 2; i++) { /* a name that is not there may be there soon */
        unsigned failed = 0;
        (void)ask("nowhere.example", 1, "four", &failed);
        finish_until(&failed, 100);
        assert_int_equal(read_locked(&looked_up), before + 1 + i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_that_hang_hold_up_nobody_else),
        cmocka_unit_test(what_is_cancelled_is_not_told_of),
        cmocka_unit_test(answers_are_kept_for_one_owner),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
