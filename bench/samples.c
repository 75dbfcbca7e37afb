/* Owns the arithmetic on samples. Knows nothing of what was measured. */
#include "samples.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double milliseconds(int64_t value_ns)
{
    return (double)value_ns / 1e6;
}

int samples_init(struct samples *samples, size_t capacity, struct err *err)
{
    *samples = (struct samples){.capacity = capacity};
    samples->values_ns = calloc(capacity > 0 ? capacity : 1, sizeof(*samples->values_ns));
    return samples->values_ns ? 0
                              : err_set(err, ERR_INTERNAL, "no memory for %zu samples", capacity);
}

void samples_done(struct samples *samples)
{
    free(samples->values_ns);
    *samples = (struct samples){0};
}

void samples_add(struct samples *samples, int64_t value_ns)
{
    if (samples->count < samples->capacity)
        samples->values_ns[samples->count++] = value_ns;
}

void samples_merge(struct samples *samples, const struct samples *other)
{
    for (size_t i = 0; i < other->count; i++)
        samples_add(samples, other->values_ns[i]);
}

static int compare(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left;
    int64_t b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

void samples_sort(struct samples *samples)
{
    if (samples->count > 0)
        qsort(samples->values_ns, samples->count, sizeof(*samples->values_ns), compare);
}

int64_t samples_percentile_ns(const struct samples *samples, double percent)
{
    if (samples->count == 0)
        return 0;
    double rank = percent / 100 * (double)samples->count;
    size_t index = (size_t)rank;
    if ((double)index == rank && index > 0)
        index--;
    return samples->values_ns[index < samples->count ? index : samples->count - 1];
}

int samples_append_file(const struct samples *samples, const char *path, struct err *err)
{
    FILE *file = fopen(path, "ae");
    if (!file)
        return err_sys(err, errno, "open %s", path);
    for (size_t i = 0; i < samples->count; i++)
        (void)fprintf(file, "%.4f\n", milliseconds(samples->values_ns[i]));
    return fclose(file) == 0 ? 0 : err_sys(err, errno, "write %s", path);
}

void samples_print(const struct samples *samples, const char *name)
{
    (void)printf("%-20s p50 %8.2f  p95 %8.2f  p99 %8.2f  max %8.2f ms  (%zu)\n", name,
                 milliseconds(samples_percentile_ns(samples, 50)),
                 milliseconds(samples_percentile_ns(samples, 95)),
                 milliseconds(samples_percentile_ns(samples, 99)),
                 milliseconds(samples_percentile_ns(samples, 100)), samples->count);
}
