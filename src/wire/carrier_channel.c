/* Owns the channels and their sockets. Refuses to trust a number that the other end says: what a
 * sandbox sends comes to the engine through here. */
#include "wire/carrier_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/mem.h"

enum { EVENTS_MAX = 64 };
#define NUMBER_MAX (UINT32_MAX - 2)
#define CREDIT_STEP (CARRIER_WINDOW / 4) /* what fd took is told when it is so much */
#define IN_KEPT (32U * 1024U)            /* of an empty `in`: a channel may live long */
#define PASSED_SNDBUF (32 * 1024)        /* twice that counts (socket(7)) */

static struct carrier_channel *find(struct carrier *carrier, uint32_t number)
{
    for (size_t i = 0; i < carrier->used; i++) {
        if (carrier->channels[i].number == number)
            return &carrier->channels[i];
    }
    return NULL;
}

/* ---- begin and end ---- */

/* An entry of epoll(7) names a place and who was there: an event may be older than a change. */
static uint64_t event_key(size_t place, uint32_t number)
{
    return (uint64_t)place << 32 | number;
}

/* Owns fd from here, which stays open on failure only when it can't be a channel's: NULL then. */
static struct carrier_channel *begin(struct carrier *carrier, uint32_t number, int fd)
{
    size_t place = 0;
    while (place < CARRIER_CHANNEL_MAX && carrier->channels[place].number != 0)
        place++;
    if (place == CARRIER_CHANNEL_MAX)
        return NULL;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET,
                                .data.u64 = event_key(place, number)};
    if (epoll_ctl(carrier->epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
        return NULL;
    struct carrier_channel *channel = &carrier->channels[place];
    memset(channel, 0, sizeof(*channel));
    channel->number = number;
    channel->fd = fd;
    channel->pass_fd = -1;
    channel->readable = channel->writable = true; /* until it says otherwise */
    channel->credit = channel->window = CARRIER_WINDOW;
    buf_init(&channel->in, CARRIER_WINDOW);
    carrier->channel_count++;
    if (place >= carrier->used)
        carrier->used = place + 1;
    return channel;
}

/* A pair whose one end is ours: what begins over there as well. *out_fd is the other end. */
static struct carrier_channel *begin_pair(struct carrier *carrier, uint32_t number, int *out_fd)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0)
        return NULL;
    struct carrier_channel *channel = begin(carrier, number, pair[0]);
    if (!channel) {
        (void)close(pair[0]);
        (void)close(pair[1]);
        return NULL;
    }
    *out_fd = pair[1];
    return channel;
}

static void end(struct carrier *carrier, struct carrier_channel *channel)
{
    uint32_t number = channel->number;
    /* A socket that was passed may be open elsewhere too, and would stay watched. */
    (void)epoll_ctl(carrier->epoll_fd, EPOLL_CTL_DEL, channel->fd, NULL);
    fd_close(&channel->fd);
    fd_close(&channel->pass_fd);
    buf_done(&channel->in);
    channel->number = 0;
    carrier->channel_count--;
    /* Those that would have gone to its reader: their other end sees them hang up. */
    for (size_t i = 0; i < carrier->used; i++) {
        struct carrier_channel *other = &carrier->channels[i];
        if (other->number != 0 && other->pass_on == number)
            fd_close(&other->pass_fd);
    }
    while (carrier->used > 0 && carrier->channels[carrier->used - 1].number == 0)
        carrier->used--;
}

static void hang_up(struct carrier *carrier, struct carrier_channel *channel)
{
    if (!channel->got_close)
        carrier_say(carrier, CARRIER_CLOSE, channel->number, NULL, 0);
    end(carrier, channel);
}

void channel_close_all(struct carrier *carrier)
{
    for (size_t i = CARRIER_CHANNEL_MAX; i-- > 0;) {
        if (carrier->channels[i].number != 0)
            end(carrier, &carrier->channels[i]);
    }
}

/* ---- to the socket ---- */

/* Sockets whose place in the stream has come; *limit becomes what may be written before the next
 * place. */
static size_t due(struct carrier *carrier, const struct carrier_channel *channel,
                  struct carrier_channel **out, size_t *limit)
{
    size_t count = 0;
    for (size_t i = 0; i < carrier->used; i++) {
        struct carrier_channel *other = &carrier->channels[i];
        if (other->number == 0 || other->pass_fd < 0 || other->pass_on != channel->number)
            continue;
        if (other->pass_at > channel->put) {
            uint64_t before = other->pass_at - channel->put;
            *limit = before < *limit ? (size_t)before : *limit;
        } else if (count < CARRIER_PASS_MAX) {
            out[count++] = other;
        }
    }
    return count;
}

/* Whether all that its other end said has come to somebody. */
static bool is_over(const struct carrier_channel *channel)
{
    return channel->got_close && channel->in.size == 0 && channel->pass_fd < 0;
}

/* What goes to the reader with the next bytes is not ours any more. */
static void let_go(struct carrier *carrier, struct carrier_channel *const *passed, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        fd_close(&passed[i]->pass_fd);
        if (is_over(passed[i]))
            end(carrier, passed[i]);
    }
}

/* One piece, up to the next place. Returns as fd_send_some(). */
static ssize_t write_piece(struct carrier *carrier, struct carrier_channel *channel)
{
    struct carrier_channel *passed[CARRIER_PASS_MAX];
    int fds[CARRIER_PASS_MAX];
    struct err err = ERR_INIT;
    size_t size = channel->in.size;
    size_t count = due(carrier, channel, passed, &size);
    for (size_t i = 0; i < count; i++)
        fds[i] = passed[i]->pass_fd;
    ssize_t sent = -ERR_CLOSED;
    if (!channel->unread)
        sent = fd_send_some(channel->fd, channel->in.data, size, fds, count, MSG_DONTWAIT, &err);
    if (sent == -ERR_CLOSED) { /* what its owner wrote last is still to be read */
        channel->hung_up = channel->unread = true;
        sent = (ssize_t)size;
    } else if (sent < 0 && err.sys_errno == ETOOMANYREFS && count > 0) {
        sent = 0; /* too many are under way already: these have hung up, to their reader */
    }
    if (sent < 0)
        return sent;
    let_go(carrier, passed, count);
    buf_consume(&channel->in, (size_t)sent);
    channel->put += (uint64_t)sent;
    channel->taken += (uint32_t)sent;
    return sent;
}

/* Whether the channel is still there: of what could not be written nothing may be left out. */
static bool write_out(struct carrier *carrier, struct carrier_channel *channel)
{
    while (channel->in.size > 0 && channel->writable) {
        ssize_t sent = write_piece(carrier, channel);
        if (sent == -ERR_UNAVAILABLE) {
            channel->writable = false;
        } else if (sent < 0) {
            hang_up(carrier, channel);
            return false;
        }
    }
    if (channel->in.size == 0 && channel->in.capacity > IN_KEPT)
        buf_done(&channel->in);
    if (channel->taken >= CREDIT_STEP && !channel->got_eof && !channel->got_close) {
        carrier_say_u32(carrier, CARRIER_CREDIT, channel->number, channel->taken);
        channel->window += channel->taken;
        channel->taken = 0;
    }
    return true;
}

static void settle(struct carrier *carrier, struct carrier_channel *channel)
{
    if (!write_out(carrier, channel))
        return;
    if (is_over(channel)) {
        end(carrier, channel);
        return;
    }
    if (channel->in.size == 0 && channel->got_eof && !channel->shut) {
        (void)shutdown(channel->fd, SHUT_WR);
        channel->shut = true;
    }
    if (channel->sent_eof && (channel->shut || channel->hung_up))
        hang_up(carrier, channel); /* no byte is to come of either end */
}

/* ---- from the socket ---- */

/* The socket that its owner passed goes on as a channel; what is none, or finds no place, as one
 * that is over at once. */
static void pass_on(struct carrier *carrier, const struct carrier_channel *channel, int fd)
{
    int type = 0;
    socklen_t size = sizeof(type);
    uint32_t number = carrier->next_number;
    if (number > NUMBER_MAX) {
        (void)close(fd);
        return;
    }
    carrier->next_number += 2;
    carrier_say_u32(carrier, CARRIER_PASS, channel->number, number);
    bool may = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
    if (may && begin(carrier, number, fd))
        return;
    (void)close(fd);
    carrier_say(carrier, CARRIER_CLOSE, number, NULL, 0);
}

/* Reads once. Sockets that came are put before the bytes: whoever gets these has them by then. */
static void read_in(struct carrier *carrier, struct carrier_channel *channel)
{
    int fds[FD_PASS_MAX];
    size_t count = FD_PASS_MAX;
    size_t room = channel->credit < CARRIER_FRAME_MAX ? channel->credit : CARRIER_FRAME_MAX;
    ssize_t got = fd_recv(channel->fd, carrier->chunk, room, fds, &count, MSG_DONTWAIT, NULL);
    if (got == -ERR_UNAVAILABLE) {
        channel->readable = false;
        return;
    }
    if (got < 0) {
        hang_up(carrier, channel);
        return;
    }
    if (got == 0) {
        channel->sent_eof = true;
        if (!channel->hung_up)
            carrier_say(carrier, CARRIER_EOF, channel->number, NULL, 0);
        settle(carrier, channel);
        return;
    }
    channel->passes |= count > 0;
    for (size_t i = 0; i < count; i++)
        pass_on(carrier, channel, fds[i]);
    channel->credit -= (uint32_t)got;
    carrier_say(carrier, CARRIER_DATA, channel->number, carrier->chunk, (size_t)got);
}

static bool may_read(const struct carrier *carrier, const struct carrier_channel *channel)
{
    if (channel->passes && carrier->channel_count >= CARRIER_PASSED_HIGH)
        return false;
    return channel->number != 0 && channel->readable && channel->credit > 0 && !channel->sent_eof &&
           !channel->got_close;
}

/* A frame of each in turn. */
static bool read_round(struct carrier *carrier)
{
    bool more = false;
    size_t count = carrier->used;
    for (size_t i = 0; i < count; i++) {
        if (carrier->failed || carrier_out_size(carrier) >= CARRIER_OUT_HIGH)
            return false;
        carrier->first = (carrier->first + 1) % count;
        struct carrier_channel *channel = &carrier->channels[carrier->first];
        if (!may_read(carrier, channel))
            continue;
        read_in(carrier, channel);
        more = true;
    }
    return more;
}

void channel_serve(struct carrier *carrier)
{
    for (size_t i = 0; i < carrier->used; i++) {
        if (carrier->channels[i].number != 0)
            settle(carrier, &carrier->channels[i]);
    }
    while (read_round(carrier))
        ;
}

static void on_event(struct carrier *carrier, const struct epoll_event *event)
{
    size_t place = (size_t)(event->data.u64 >> 32);
    struct carrier_channel *channel = &carrier->channels[place];
    if (place >= carrier->used || channel->number != (uint32_t)event->data.u64)
        return;
    bool over = (event->events & (EPOLLHUP | EPOLLERR)) != 0;
    if (over || (event->events & (EPOLLIN | EPOLLRDHUP)) != 0)
        channel->readable = true;
    if (over || (event->events & EPOLLOUT) != 0)
        channel->writable = true;
    channel->hung_up |= (event->events & EPOLLHUP) != 0;
}

void carrier_step(struct carrier *carrier)
{
    struct epoll_event events[EVENTS_MAX];
    int count = 0;
    do {
        count = epoll_wait(carrier->epoll_fd, events, EVENTS_MAX, 0);
        for (int i = 0; i < count; i++)
            on_event(carrier, &events[i]);
    } while (count == EVENTS_MAX);
    channel_serve(carrier);
    if (carrier->failed && !carrier->outer)
        carrier_drop(carrier);
}

/* ---- from the other end ---- */

/* Whether a channel may begin that has this number, which then is used. */
static bool take_number(struct carrier *carrier, uint32_t number)
{
    bool theirs = number % 2 == (carrier->outer ? 0 : 1);
    if (!theirs || number <= carrier->their_number)
        return false;
    carrier->their_number = number;
    return true;
}

static int on_open(struct carrier *carrier, uint32_t number, struct err *err)
{
    int fd = -1;
    if (!take_number(carrier, number))
        return err_set(err, ERR_PROTOCOL, "carrier: OPEN of channel %u", number);
    if (begin_pair(carrier, number, &fd))
        carrier->events.opened(carrier->events.context, fd);
    else
        carrier_say(carrier, CARRIER_CLOSE, number, NULL, 0);
    return 0;
}

/* channel: NULL when the one that it would have gone with is over. One that finds no place has hung
 * up, to the other end, and its reader gets the bytes without it. */
static int on_pass(struct carrier *carrier, const struct carrier_channel *channel, uint32_t number,
                   struct err *err)
{
    int fd = -1;
    if (!take_number(carrier, number))
        return err_set(err, ERR_PROTOCOL, "carrier: PASS of channel %u", number);
    bool goes = channel && !channel->got_eof && !channel->got_close &&
                carrier->channel_count < CARRIER_PASSED_MAX;
    struct carrier_channel *passed = goes ? begin_pair(carrier, number, &fd) : NULL;
    if (!passed) {
        carrier_say(carrier, CARRIER_CLOSE, number, NULL, 0);
        return 0;
    }
    int size = PASSED_SNDBUF;
    (void)setsockopt(passed->fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    passed->pass_fd = fd;
    passed->pass_on = channel->number;
    passed->pass_at = channel->put + channel->in.size;
    return 0;
}

static int on_data(struct carrier_channel *channel, const uint8_t *payload, size_t size,
                   struct err *err)
{
    if (channel->got_eof || channel->got_close || size > channel->window)
        return err_set(err, ERR_PROTOCOL, "carrier: %zu bytes beyond the credit or the end", size);
    channel->window -= (uint32_t)size;
    return buf_append(&channel->in, payload, size, err);
}

static int on_credit(struct carrier_channel *channel, uint32_t more, struct err *err)
{
    if (more > CARRIER_WINDOW - channel->credit)
        return err_set(err, ERR_PROTOCOL, "carrier: credit of %u bytes", more);
    channel->credit += more;
    return 0;
}

/* A number that was in use: what was under way when its channel ended here. */
static bool is_past(const struct carrier *carrier, uint32_t number)
{
    bool ours = number % 2 == carrier->next_number % 2;
    return ours ? number < carrier->next_number : number <= carrier->their_number;
}

int channel_on_frame(struct carrier *carrier, enum carrier_type type, uint32_t number,
                     const uint8_t *payload, size_t size, struct err *err)
{
    if (type == CARRIER_OPEN)
        return on_open(carrier, number, err);
    struct carrier_channel *channel = find(carrier, number);
    if (!channel && !is_past(carrier, number))
        return err_set(err, ERR_PROTOCOL, "carrier: a frame on channel %u", number);
    if (type == CARRIER_PASS)
        return on_pass(carrier, channel, carrier_get_u32(payload), err);
    int result = 0;
    if (!channel)
        return 0;
    if (type == CARRIER_DATA)
        result = on_data(channel, payload, size, err);
    else if (type == CARRIER_CREDIT)
        result = on_credit(channel, carrier_get_u32(payload), err);
    else if (type == CARRIER_EOF)
        channel->got_eof = true;
    else if (type == CARRIER_CLOSE)
        channel->got_eof = channel->got_close = true;
    if (result == 0)
        settle(carrier, channel);
    return result;
}

/* ---- ours ---- */

int carrier_open(struct carrier *carrier, int *out_fd, struct err *err)
{
    uint32_t number = carrier->next_number;
    int result = carrier_check(carrier, err);
    if (result != 0)
        return result;
    if (number > NUMBER_MAX)
        return err_set(err, ERR_UNAVAILABLE, "carrier: no channel number is left");
    if (carrier->channel_count >= CARRIER_CHANNEL_MAX)
        return err_set(err, ERR_UNAVAILABLE, "carrier: no channel is free");
    int fd = -1;
    if (!begin_pair(carrier, number, &fd))
        return err_sys(err, errno, "carrier: a new channel");
    carrier->next_number += 2;
    carrier_say(carrier, CARRIER_OPEN, number, NULL, 0);
    result = carrier_check(carrier, err);
    if (result != 0) {
        (void)close(fd);
        return result;
    }
    *out_fd = fd;
    return 0;
}
