/* Owns how what berth-unpack says is read: it has read a hostile archive. */
#include "wire/unpack_status.h"

#include <string.h>
#include <unistd.h>

#include "base/parse.h"

/* What is not printable becomes "?". Returns the kind of the message, 0 when there is none. */
static char read_status(int fd, char text[static UNPACK_STATUS_MAX + 1])
{
    char message[UNPACK_STATUS_MAX];
    ssize_t size = read(fd, message, sizeof(message));
    if (size <= 0)
        return 0;
    for (ssize_t i = 1; i < size; i++)
        text[i - 1] = message[i] >= ' ' && message[i] <= '~' ? message[i] : '?';
    text[size - 1] = '\0';
    return message[0];
}

int unpack_status_judge(const siginfo_t *end, int status_fd,
                        char summary[static UNPACK_STATUS_MAX + 1], struct err *err)
{
    char text[UNPACK_STATUS_MAX + 1] = "";
    char kind = read_status(status_fd, text);
    if (end->si_code != CLD_EXITED)
        return err_set(err, ERR_INTERNAL, "berth-unpack was ended by signal %d", end->si_status);
    if (end->si_status == 0 && kind == UNPACK_STATUS_DONE &&
        strspn(text, "0123456789 ") == strlen(text)) {
        memcpy(summary, text, sizeof(text));
        return 0;
    }
    if (end->si_status == 0 || kind == 0)
        return err_set(err, ERR_INTERNAL, "berth-unpack ended with status %d and no word of why",
                       end->si_status);
    if (kind == UNPACK_STATUS_BAD)
        return err_public(err, ERR_BAD_INPUT, "%.250s", text);
    return err_set(err, ERR_INTERNAL, "berth-unpack (status %d): %.250s", end->si_status, text);
}

int unpack_status_size(const char *summary, uint64_t most, uint64_t *out, struct err *err)
{
    char number[24] = "";
    const char *at = strchr(summary, ' ');
    size_t size = at ? strcspn(at + 1, " ") : 0;
    if (at && size < sizeof(number))
        memcpy(number, at + 1, size);
    if (parse_u64(number, 0, most, out, NULL) != 0)
        return err_set(err, ERR_INTERNAL, "berth-unpack says that it unpacked \"%.64s\"", summary);
    return 0;
}
