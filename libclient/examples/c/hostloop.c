/* A program that has an event loop already (here: poll) reads an image in it,
 * 16 requests at a time, and prints how many granules hold something.
 *
 *   cc hostloop.c $(pkg-config --cflags --libs vitastor) -o hostloop
 *   ./hostloop image [etcd_address]
 *
 * SPDX-License-Identifier: MIT
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vitastor_c.h>

#define DEPTH 16
#define CHUNK (128 * 1024)

struct scan {
    vitastor_c *c;
    void *image;
    uint64_t next, size, used, granules;
    int running, failed;
};

struct slot {
    struct scan *s;
    char *buf;
};

static void read_next(struct slot *slot);

static void read_done(void *opaque, long retval, uint64_t version)
{
    struct slot *slot = opaque;
    struct scan *s = slot->s;
    (void)version;
    s->running--;
    if (retval < 0) {
        fprintf(stderr, "read: %s\n", strerror(-retval));
        s->failed = 1;
        return;
    }
    for (long i = 0; i < retval; i += 4096) {
        s->granules++;
        if (slot->buf[i] || memcmp(slot->buf + i, slot->buf + i + 1, 4095))
            s->used++;
    }
    read_next(slot); /* callbacks may submit */
}

static void read_next(struct slot *slot)
{
    struct scan *s = slot->s;
    if (s->next >= s->size || s->failed)
        return;
    uint64_t len = s->size - s->next < CHUNK ? s->size - s->next : CHUNK;
    struct iovec iov = { slot->buf, len };
    s->running++;
    /* the image's number is asked each time: it changes with a snapshot */
    vitastor_c_read(s->c, vitastor_c_inode_get_num(s->image), s->next, len, &iov, 1, read_done, slot);
    s->next += len;
}

static void opened(void *opaque, long handle)
{
    struct scan *s = opaque;
    s->image = (void *)handle;
    s->running--;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s image [etcd_address]\n", argv[0]);
        return 2;
    }
    const char *options[] = { "etcd_address", argc > 2 ? argv[2] : "" };
    struct scan s = { .c = vitastor_c_create_uring_json(options, argc > 2 ? 2 : 0), .running = 1 };
    if (!s.c)
        return 1;
    struct pollfd fd = { .fd = vitastor_c_uring_register_eventfd(s.c), .events = POLLIN };
    vitastor_c_watch_inode(s.c, argv[1], opened, &s);

    struct slot slots[DEPTH] = { 0 };
    for (int begun = 0; s.running || !begun;) {
        poll(&fd, 1, -1); /* beside whatever else the program polls */
        vitastor_c_uring_handle_events(s.c);
        if (begun || !s.image)
            continue;
        begun = 1;
        if (!vitastor_c_inode_get_num(s.image)) {
            fprintf(stderr, "there is no image %s: create it with vitastor-cli create\n", argv[1]);
            return 1;
        }
        s.size = vitastor_c_inode_get_size(s.image);
        for (int i = 0; i < DEPTH; i++) {
            slots[i].s = &s;
            slots[i].buf = malloc(CHUNK);
            read_next(&slots[i]);
        }
    }
    printf("%s: %llu of %llu granules hold something\n", argv[1], (unsigned long long)s.used, (unsigned long long)s.granules);
    vitastor_c_close_watch(s.c, s.image);
    vitastor_c_destroy(s.c);
    for (int i = 0; i < DEPTH; i++)
        free(slots[i].buf);
    return s.failed;
}
