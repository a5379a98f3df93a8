/* A vfio-user client's messages off its socket, and answers to accesses: Messages.next of messages.py, sooner.
 *
 * Of the accesses only those are dealt with here that are as on a bus, in a region that the card gave the size of;
 * whatever else comes is left where it is, for Python. The client is mistrusted: every number in a message is checked
 * before it is used.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REGIONS = 9, DESCRIPTORS_MAX = 8, MESSAGE_BYTES_MAX = 16384 };
enum { REGION_READ = 9, REGION_WRITE = 10 };                 /* commands */
enum { REPLY = 0x1, NO_REPLY = 0x10, TYPE_MASK = 0xF };      /* flags */

enum { NOTHING, READ, WRITE, MESSAGE, GONE, MALFORMED, TOO_MANY_DESCRIPTORS, UNREAD, RECEIVED };

struct header {
    uint16_t id, command;
    uint32_t size, flags, error;
};

struct access {
    uint64_t offset;
    uint32_t region, count;
};

struct answer {
    struct header header;
    struct access access;
    uint32_t data;
};

struct state { /* as State of messages.py, which says what each is */
    uint8_t *buffer;
    uint32_t capacity, at, have;
    int32_t socket;
    uint32_t looks, yields, left;
    uint32_t region, offset, size, value;
    uint32_t owed, id;
    uint32_t region_bytes[REGIONS];
    uint32_t descriptor_count;
    int32_t descriptors[DESCRIPTORS_MAX];
};

/* The first message: an access, something else, or there is no whole one. */
static int parse(struct state *state)
{
    const uint8_t *message = state->buffer + state->at;
    size_t there = state->have - state->at;
    struct header header;
    struct access access;

    if (there < sizeof header)
        return NOTHING;
    memcpy(&header, message, sizeof header);
    if (header.size < sizeof header || header.size > MESSAGE_BYTES_MAX)
        return MALFORMED;
    if (there < header.size)
        return NOTHING;
    if (header.flags & TYPE_MASK || (header.command != REGION_READ && header.command != REGION_WRITE) ||
        header.size < sizeof header + sizeof access)
        return MESSAGE;
    memcpy(&access, message + sizeof header, sizeof access);
    if ((access.count != 1 && access.count != 2 && access.count != 4) || access.offset & (access.count - 1) ||
        access.region >= REGIONS || access.offset >= state->region_bytes[access.region] ||
        access.offset + access.count > state->region_bytes[access.region])
        return MESSAGE;
    if (header.command == REGION_WRITE) {
        if (header.size != sizeof header + sizeof access + access.count)
            return MESSAGE;
        state->value = 0;
        memcpy(&state->value, message + sizeof header + sizeof access, access.count);
    }
    state->at += header.size;
    state->region = access.region;
    state->offset = (uint32_t)access.offset;
    state->size = access.count;
    state->owed = header.flags & NO_REPLY ? 0 : header.command;
    state->id = header.id;
    return header.command == REGION_READ ? READ : WRITE;
}

static int take_descriptors(struct state *state, struct msghdr *from)
{
    int too_many = from->msg_flags & MSG_CTRUNC;

    for (struct cmsghdr *each = CMSG_FIRSTHDR(from); each; each = CMSG_NXTHDR(from, each)) {
        if (each->cmsg_level != SOL_SOCKET || each->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = 0; CMSG_LEN(at + sizeof(int)) <= each->cmsg_len; at += sizeof(int)) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(each) + at, sizeof descriptor);
            if (state->descriptor_count < DESCRIPTORS_MAX) {
                state->descriptors[state->descriptor_count++] = descriptor;
            } else {
                close(descriptor);
                too_many = 1;
            }
        }
    }
    return too_many ? TOO_MANY_DESCRIPTORS : RECEIVED;
}

/* What the socket has; if it has nothing, others are let run and it is looked again, as often as may be. */
static int receive(struct state *state)
{
    memmove(state->buffer, state->buffer + state->at, state->have - state->at);
    state->have -= state->at;
    state->at = 0;
    while (state->looks) {
        union {
            struct cmsghdr aligned;
            char bytes[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
        } control;
        struct iovec data = {state->buffer + state->have, state->capacity - state->have};
        struct msghdr message = {
            .msg_iov = &data, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t count = recvmsg(state->socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

        state->looks--;
        if (count > 0) {
            state->have += (uint32_t)count;
            state->left = state->yields;
            return take_descriptors(state, &message);
        }
        if (count == 0 || (errno != EAGAIN && errno != EINTR))
            return GONE;
        if (!state->left)
            break;
        state->left--;
        sched_yield();
    }
    return NOTHING;
}

static int answer(struct state *state, uint32_t value)
{
    size_t data = state->owed == REGION_READ ? state->size : 0, size = offsetof(struct answer, data) + data;
    struct answer answer = {
        {(uint16_t)state->id, (uint16_t)state->owed, (uint32_t)size, REPLY, 0},
        {state->offset, state->region, state->size},
        value,
    };

    state->owed = 0;
    return send(state->socket, &answer, size, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)size;
}

int nooks_next(struct state *state, uint32_t value)
{
    if (state->owed && !answer(state, value))
        return UNREAD;
    for (;;) {
        int kind = parse(state);
        if (kind == NOTHING)
            kind = receive(state);
        if (kind != RECEIVED)
            return kind;
    }
}

size_t nooks_state_bytes(void)
{
    return sizeof(struct state);
}
