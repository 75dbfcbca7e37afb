/* The compile cache: what is put comes back for the same key alone, over a restart; the least used
 * goes first; a file that is not whole is a miss. */
#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/compile_cache.h"
#include "folder.h"

static struct compile_cache *open_cache(uint64_t bytes_max)
{
    struct compile_cache *cache = NULL;
    struct err err = ERR_INIT;
    assert_ok(compile_cache_open(folder, bytes_max, &cache, &err), err);
    return cache;
}

static struct buf key_of(const char *text)
{
    struct buf key;
    buf_init(&key, 1 << 20);
    assert_int_equal(buf_append_str(&key, text, NULL), 0);
    return key;
}

static void put(struct compile_cache *cache, const char *text, const char *program, size_t size)
{
    BUF_AUTO struct buf key = key_of(text);
    compile_cache_put(cache, &key, program, size);
}

/* What is kept under the key; NULL: nothing. */
static const char *get(struct compile_cache *cache, const char *text)
{
    static char kept[256];
    BUF_AUTO struct buf key = key_of(text);
    BUF_AUTO struct buf program;
    buf_init(&program, COMPILE_CACHE_PROGRAM_MAX);
    if (!compile_cache_get(cache, &key, &program))
        return NULL;
    (void)snprintf(kept, sizeof(kept), "%s", buf_cstr(&program));
    return kept;
}

static uint64_t entries(struct compile_cache *cache)
{
    struct compile_cache_stats stats;
    compile_cache_stats(cache, &stats);
    return stats.entries;
}

static void gives_back_what_it_was_given(void **state)
{
    (void)state;
    struct compile_cache *cache = open_cache(1 << 20);
    struct compile_cache_stats stats;
    assert_null(get(cache, "a"));
    put(cache, "a", "first", 5);
    put(cache, "b", "second", 6);
    assert_string_equal(get(cache, "a"), "first");
    assert_string_equal(get(cache, "b"), "second");
    assert_null(get(cache, "c"));
    put(cache, "a", "third", 5);
    assert_string_equal(get(cache, "a"), "third");
    compile_cache_stats(cache, &stats);
    assert_int_equal(stats.hits, 3);
    assert_int_equal(stats.misses, 2);
    assert_int_equal(stats.entries, 2);
    assert_int_equal(stats.bytes, 2 * 4096);
    compile_cache_close(cache);
    cache = open_cache(1 << 20); /* the next server */
    assert_string_equal(get(cache, "a"), "third");
    assert_string_equal(get(cache, "b"), "second");
    compile_cache_close(cache);
}

static void the_least_used_goes_first(void **state)
{
    (void)state;
    struct compile_cache *cache = open_cache(3 * 4096);
    put(cache, "a", "1", 1);
    put(cache, "b", "2", 1);
    put(cache, "c", "3", 1);
    assert_non_null(get(cache, "a"));
    put(cache, "d", "4", 1);
    assert_null(get(cache, "b"));
    assert_non_null(get(cache, "a"));
    assert_non_null(get(cache, "c"));
    assert_non_null(get(cache, "d"));
    assert_int_equal(entries(cache), 3);
    char large[8192] = "large";
    put(cache, "e", large, sizeof(large)); /* three blocks with its head: all of them go */
    assert_int_equal(entries(cache), 1);
    assert_string_equal(get(cache, "e"), "large");
    char larger[16384] = "larger";
    put(cache, "f", larger, sizeof(larger)); /* never fits, and puts nobody out */
    assert_null(get(cache, "f"));
    assert_string_equal(get(cache, "e"), "large");
    compile_cache_close(cache);
    cache = open_cache(4096); /* an operator gave it less room */
    assert_int_equal(entries(cache), 0);
    assert_null(get(cache, "e"));
    compile_cache_close(cache);
}

/* Calls change(fd) for the only program of the folder. */
static void change_file(void (*change)(int fd))
{
    DIR *list = opendir(folder);
    assert_non_null(list);
    for (const struct dirent *item; (item = readdir(list));) {
        if (item->d_name[0] == '.')
            continue;
        FD_AUTO int fd = openat(folder_fd, item->d_name, O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
        change(fd);
    }
    assert_int_equal(closedir(list), 0);
}

static void cut(int fd)
{
    assert_int_equal(ftruncate(fd, lseek(fd, 0, SEEK_END) - 1), 0);
}

static void turn_a_bit(int fd)
{
    char byte = 0;
    off_t last = lseek(fd, 0, SEEK_END) - 1;
    assert_int_equal(pread(fd, &byte, 1, last), 1);
    byte = (char)(byte ^ 1);
    assert_int_equal(pwrite(fd, &byte, 1, last), 1);
}

static void change_key(int fd)
{
    assert_int_equal(pwrite(fd, "X", 1, 32), 1); /* behind the head */
}

static void empty(int fd)
{
    assert_int_equal(ftruncate(fd, 0), 0);
}

static void what_is_not_whole_is_a_miss(void **state)
{
    (void)state;
    void (*const changes[])(int) = {cut, turn_a_bit, change_key, empty};
    struct compile_cache *cache = open_cache(1 << 20);
    for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
        put(cache, "a", "program", 7);
        assert_string_equal(get(cache, "a"), "program");
        change_file(changes[i]);
        assert_null(get(cache, "a"));
    }
    compile_cache_close(cache);
}

static void what_is_no_program_goes(void **state)
{
    (void)state;
    const char *const names[] = {".new-1", "notes", "0123456789abcdef"};
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        FD_AUTO int fd = openat(folder_fd, names[i], O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        assert_true(fd >= 0);
    }
    struct compile_cache *cache = open_cache(1 << 20);
    assert_int_equal(entries(cache), 0);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        assert_int_equal(faccessat(folder_fd, names[i], F_OK, 0), -1);
    compile_cache_close(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        in_folder(gives_back_what_it_was_given),
        in_folder(the_least_used_goes_first),
        in_folder(what_is_not_whole_is_a_miss),
        in_folder(what_is_no_program_goes),
    };
    return cmocka_run_group_tests_name("compile_cache", tests, NULL, NULL);
}
