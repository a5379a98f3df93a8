/* The mover of mover.py once more, in C: what it does and why is said there and in nooks/xpc/block.py, whose constants
 * the compiler is given as XPC_*. One thread, and the kernel's asynchronous I/O (io_submit(2)). Zeroing and discarding,
 * which have no such form, get a thread each.
 *
 * For SPIN_NS after it had something to do it sleeps in no system call, but looks at the rings in the region and at the
 * one in which the kernel notes what it is done with (fs/aio.c, struct aio_ring).
 *
 * Usage: mover PORT DISK REGION REGION_BYTES BELL; PORT is the number of an open descriptor, and so is BELL, or it is "io"
 * (the I/O port), or "none": then, and if nothing is at the I/O port, all goes by PORT.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct __attribute__((packed)) request { /* xpc/block.py, REQUEST */
    uint16_t magic;
    uint8_t operation, flags;
    uint32_t tag;
    uint64_t offset, length;
    uint32_t buffer;
    uint16_t zero, mark;
};

struct __attribute__((packed)) reply { /* xpc/block.py, REPLY */
    uint16_t magic, zero;
    uint32_t tag;
    int32_t result;
    uint32_t mark;
};

struct ended { /* what a thread says of its request */
    uint32_t tag;
    int32_t result;
};

_Static_assert(sizeof(struct request) == XPC_REQUEST_SIZE, "REQUEST of nooks/xpc/block.py");
_Static_assert(sizeof(struct reply) == XPC_REPLY_SIZE, "REPLY of nooks/xpc/block.py");

struct aio_ring { /* fs/aio.c */
    uint32_t id, nr, head, tail, magic, compat_features, incompat_features, header_length;
    struct io_event events[];
};

enum { DEPTH = 256, RECEIVED_BYTES = 128 * sizeof(struct request), ABSENT_US = 20000, FULL_US = 1000 };
enum { AIO_RING_MAGIC = 0xa10a10a1, PORT_NS = 2000000, LOOKS = 64, BELL_NONE = -1 };

#ifndef SPIN_NS
#define SPIN_NS 500000
#endif
#define WORD(at) ((uint32_t *)(region + (at)))

static int port, disk, completed, ended_here, ended_there, bell = BELL_NONE, bell_is_io;
static char *region;
static uint64_t region_bytes;
static aio_context_t context;
static unsigned submitted, flushing, threads; /* requests without an answer yet; flushes are submitted as well */

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void answer_at_port(const struct reply *reply)
{
    while (write(port, reply, sizeof *reply) < 0) {
        struct pollfd writable = {port, POLLOUT, 0};
        if (errno != EAGAIN && errno != EINTR)
            fail("mover: port");
        poll(&writable, 1, -1);
        if (writable.revents & POLLHUP)
            usleep(FULL_US); /* nobody holds the other end: somebody will, and is to find a whole reply */
    }
}

static void ring_the_bell(void)
{
    if ((bell_is_io ? pwrite(bell, "", 1, XPC_BELL_IO_PORT) : write(bell, "", 1)) != 1)
        fail("mover: bell");
}

static void answer(uint32_t tag, int32_t result)
{
    struct reply reply = {XPC_REPLY_MAGIC, 0, tag, result, XPC_REPLY_MARK};
    if (bell == BELL_NONE) {
        answer_at_port(&reply);
        return;
    }
    uint32_t replied = *WORD(XPC_REPLIED);
    memcpy(region + XPC_REPLIES_AT + replied % XPC_RING * sizeof reply, &reply, sizeof reply);
    __atomic_store_n(WORD(XPC_REPLIED), replied + 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(WORD(XPC_TAKEN), __ATOMIC_SEQ_CST) == replied)
        ring_the_bell();
}

static void answer_event(const struct io_event *event)
{
    submitted--, flushing -= event->data >> 32;
    answer((uint32_t)event->data, (int32_t)event->res);
}

/* Answer what the kernel is done with; wait for at least so many. */
static void reap(long least)
{
    struct io_event events[DEPTH];
    long count = syscall(SYS_io_getevents, context, least, DEPTH, events, NULL);
    for (long index = 0; index < count; index++)
        answer_event(&events[index]);
}

/* The same without a system call; whether there was anything. */
static int reap_from_ring(void)
{
    struct aio_ring *ring = (struct aio_ring *)context;
    uint32_t head = ring->head;
    if (head == __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE))
        return 0;
    struct io_event event = ring->events[head];
    __atomic_store_n(&ring->head, (head + 1) % ring->nr, __ATOMIC_RELEASE);
    answer_event(&event);
    return 1;
}

static void reap_thread(void)
{
    struct ended ended;
    if (read(ended_here, &ended, sizeof ended) == sizeof ended) {
        threads--;
        answer(ended.tag, ended.result);
    }
}

static void *zero_or_discard(void *given)
{
    struct request *request = given;
    uint64_t range[2] = {request->offset, request->length};
    struct ended ended = {request->tag, 0};
    if (ioctl(disk, request->operation == XPC_ZERO ? BLKZEROOUT : BLKDISCARD, range) < 0)
        ended.result = -errno;
    free(request);
    if (write(ended_there, &ended, sizeof ended) != sizeof ended)
        fail("mover: pipe");
    return NULL;
}

static int in_a_thread(const struct request *request)
{
    pthread_t thread;
    struct request *copy = malloc(sizeof *copy);
    if (!copy)
        return -ENOMEM;
    *copy = *request;
    int error = pthread_create(&thread, NULL, zero_or_discard, copy);
    if (error) {
        free(copy);
        return -error;
    }
    pthread_detach(thread);
    threads++;
    return 0;
}

static int submit(const struct request *request)
{
    struct iocb block = {
        .aio_data = request->tag | (uint64_t)(request->operation == XPC_FLUSH) << 32,
        .aio_fildes = disk,
        .aio_flags = IOCB_FLAG_RESFD,
        .aio_resfd = completed,
    };
    struct iocb *blocks[1] = {&block};
    if (request->operation == XPC_FLUSH) {
        block.aio_lio_opcode = IOCB_CMD_FDSYNC;
    } else {
        if (request->buffer > region_bytes || request->length > region_bytes - request->buffer)
            return -EINVAL;
        block.aio_lio_opcode = request->operation == XPC_READ ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE;
        block.aio_rw_flags = request->operation == XPC_WRITE && request->flags & XPC_FUA ? RWF_DSYNC : 0;
        block.aio_buf = (uintptr_t)(region + request->buffer);
        block.aio_nbytes = request->length;
        block.aio_offset = (int64_t)request->offset;
    }
    while (syscall(SYS_io_submit, context, 1, blocks) != 1) {
        if (errno != EAGAIN || !submitted)
            return -errno;
        reap(1);
    }
    submitted++;
    flushing += request->operation == XPC_FLUSH;
    return 0;
}

static int take_from_ring(void);

/* Be through with all, and have the rings as new. */
static void begin_anew(uint32_t tag)
{
    struct reply reply = {XPC_REPLY_MAGIC, 0, tag, 0, XPC_REPLY_MARK};
    while (bell != BELL_NONE && take_from_ring()) {}
    while (submitted)
        reap(1);
    while (threads)
        reap_thread();
    *WORD(XPC_REQUESTED) = *WORD(XPC_BEGUN) = *WORD(XPC_REPLIED) = *WORD(XPC_TAKEN) = 0;
    answer_at_port(&reply);
}

static void carry_out(const struct request *request)
{
    int error = -EINVAL;
    switch (request->operation) {
    case XPC_READ:
    case XPC_WRITE:
    case XPC_FLUSH:
        error = submit(request);
        break;
    case XPC_ZERO:
    case XPC_DISCARD:
        error = in_a_thread(request);
        break;
    case XPC_BARRIER:
        begin_anew(request->tag);
        return;
    case XPC_KICK:
        return;
    }
    if (error)
        answer(request->tag, error);
}

/* Carry out the next request of the ring; whether there was one. */
static int take_from_ring(void)
{
    uint32_t begun = *WORD(XPC_BEGUN);
    struct request *place = (struct request *)(region + XPC_REQUESTS_AT) + begun % XPC_RING, request;
    if (__atomic_load_n(WORD(XPC_REQUESTED), __ATOMIC_ACQUIRE) == begun)
        return 0;
    request = *place;
    place->mark = 0; /* never again, whatever becomes of the words */
    *WORD(XPC_BEGUN) = begun + 1;
    if (request.magic != XPC_REQUEST_MAGIC || request.mark != XPC_REQUEST_MARK) {
        errno = EBADMSG;
        fail("mover: ring");
    }
    carry_out(&request);
    return 1;
}

/* Carry out the whole requests among the first bytes, skipping torn ones; returns how many bytes are done with. */
static size_t take(const char *received, size_t bytes)
{
    size_t at = 0;
    while (bytes - at >= sizeof(struct request)) {
        struct request request;
        memcpy(&request, received + at, sizeof request);
        if (request.magic == XPC_REQUEST_MAGIC && request.mark == XPC_REQUEST_MARK) {
            at += sizeof request;
            carry_out(&request);
            continue;
        }
        uint16_t magic;
        do {
            at++;
            memcpy(&magic, received + at, sizeof magic);
        } while (magic != XPC_REQUEST_MAGIC && bytes - at > sizeof magic);
        if (magic != XPC_REQUEST_MAGIC)
            at = bytes - 1;
    }
    return at;
}

static void receive(void)
{
    static char received[RECEIVED_BYTES];
    static size_t have;
    ssize_t count = read(port, received + have, sizeof received - have);
    if (count == 0)
        usleep(ABSENT_US); /* nobody holds the other end */
    have += count > 0 ? (size_t)count : 0;
    size_t done = take(received, have);
    have -= done;
    memmove(received, received + done, have);
}

static void open_all(char **names)
{
    int pipes[2], node = open(names[2], O_RDWR | O_CLOEXEC);
    region_bytes = strtoull(names[3], NULL, 10);
    region = node < 0 ? MAP_FAILED : mmap(NULL, region_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, node, 0);
    if (region == MAP_FAILED)
        fail(names[2]);
    port = atoi(names[0]);
    if (fcntl(port, F_SETFL, O_NONBLOCK) < 0)
        fail("mover: port");
    disk = open(names[1], O_RDWR | O_DIRECT | O_CLOEXEC);
    if (disk < 0 && errno != ENXIO) /* else it is not there yet, which is not the same as not to be written to */
        disk = open(names[1], O_RDONLY | O_DIRECT | O_CLOEXEC | O_NONBLOCK);
    if (disk < 0)
        fail(names[1]);
    completed = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (completed < 0 || pipe(pipes) < 0 || syscall(SYS_io_setup, DEPTH, &context) < 0)
        fail("mover");
    ended_here = pipes[0];
    ended_there = pipes[1];
}

static void find_bell(const char *name)
{
    struct aio_ring *ring = (struct aio_ring *)context;
    if (ring->magic != AIO_RING_MAGIC || ring->incompat_features || !strcmp(name, "none"))
        return;
    bell_is_io = !strcmp(name, "io");
    bell = bell_is_io ? open("/dev/port", O_RDWR | O_CLOEXEC) : atoi(name); /* mem(4) */
    unsigned char read_back;
    if (bell_is_io && (pread(bell, &read_back, 1, XPC_BELL_IO_PORT) != 1 || read_back != XPC_BELL_IO_PORT))
        bell = BELL_NONE;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Look at both rings until there was nothing for a while, and now and then at the port; others may run meanwhile. */
static void look(void)
{
    uint64_t times;
    int64_t last = now_ns(), at_port = last;
    __atomic_store_n(WORD(XPC_AWAKE), 1, __ATOMIC_SEQ_CST);
    for (;;) {
        int found = 0;
        for (int count = 0; count < LOOKS; count++)
            found |= take_from_ring() | reap_from_ring();
        if (threads || flushing)
            break; /* threads of ours, and of the kernel's, which want the processor; they end at a descriptor */
        int64_t now = now_ns();
        if (found)
            last = now;
        else if (now - last > SPIN_NS)
            break;
        if (now - at_port > PORT_NS) { /* what came just before it was said that somebody looks */
            receive();
            at_port = now;
        }
        sched_yield();
    }
    if (read(completed, &times, sizeof times) == sizeof times) /* all that it tells of so far is in the ring */
        while (reap_from_ring()) {}
    __atomic_store_n(WORD(XPC_AWAKE), 0, __ATOMIC_SEQ_CST);
    while (take_from_ring()) {} /* came just before that */
}

/* Wait for something to do, and do it. */
static void wait_and_work(void)
{
    uint64_t times;
    struct pollfd awaited[] = {{port, POLLIN, 0}, {completed, POLLIN, 0}, {ended_here, POLLIN, 0}};
    if (poll(awaited, 3, -1) < 0)
        return;
    if (awaited[1].revents && read(completed, &times, sizeof times) == sizeof times)
        reap(0);
    if (awaited[2].revents)
        reap_thread();
    if (awaited[0].revents)
        receive();
}

int main(int count, char **arguments)
{
    if (count != 6)
        return 2;
    open_all(arguments + 1);
    find_bell(arguments[5]);
    for (;;) {
        wait_and_work();
        if (bell != BELL_NONE)
            look();
    }
}
