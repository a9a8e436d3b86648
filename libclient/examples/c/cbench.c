/* Measures random reads or writes of an image: what one operation costs, in
 * time and in CPU of this process.
 *
 *   ./cbench image etcd_address read|write bytes depth seconds
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include <vitastor_c.h>

struct bench {
    vitastor_c *c;
    uint64_t inode, size, bytes, ops, rng;
    int write, running, ending;
};

struct slot {
    struct bench *b;
    char *buf;
};

static void next(struct slot *slot);

static void done(void *opaque, long retval)
{
    struct slot *slot = opaque;
    struct bench *b = slot->b;
    if (retval != (long)b->bytes) {
        fprintf(stderr, "operation: %ld\n", retval);
        exit(1);
    }
    b->ops++;
    b->running--;
    if (!b->ending)
        next(slot);
}

static void read_done(void *opaque, long retval, uint64_t version)
{
    (void)version;
    done(opaque, retval);
}

static void next(struct slot *slot)
{
    struct bench *b = slot->b;
    struct iovec iov = { slot->buf, b->bytes };
    b->rng = b->rng * 6364136223846793005u + 1442695040888963407u;
    uint64_t offset = (b->rng >> 16) % (b->size / b->bytes) * b->bytes;
    b->running++;
    if (b->write)
        vitastor_c_write(b->c, b->inode, offset, b->bytes, 0, &iov, 1, done, slot);
    else
        vitastor_c_read(b->c, b->inode, offset, b->bytes, &iov, 1, read_done, slot);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static void opened(void *opaque, long handle)
{
    *(void **)opaque = (void *)handle;
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: %s image etcd_address read|write bytes depth seconds\n", argv[0]);
        return 2;
    }
    const char *options[] = { "etcd_address", argv[2] };
    struct bench b = { .c = vitastor_c_create_uring_json(options, 2), .write = argv[3][0] == 'w', .bytes = atoll(argv[4]) };
    int depth = atoi(argv[5]);
    double seconds = atof(argv[6]);
    void *image = NULL;
    if (!b.c)
        return 1;
    vitastor_c_watch_inode(b.c, argv[1], opened, &image);
    while (!image)
        vitastor_c_uring_wait_events(b.c);
    b.inode = vitastor_c_inode_get_num(image);
    b.size = vitastor_c_inode_get_size(image);
    if (!b.size || depth < 1) {
        fprintf(stderr, "there is no image %s\n", argv[1]);
        return 1;
    }
    for (int i = 0; i < depth; i++) {
        struct slot *slot = malloc(sizeof(*slot));
        slot->b = &b;
        slot->buf = malloc(b.bytes);
        memset(slot->buf, 0x5a + i, b.bytes);
        next(slot);
    }
    for (double warm = now() + 0.5; now() < warm;)
        vitastor_c_uring_wait_events(b.c);
    double begin = now(), used = cpu();
    uint64_t ops = b.ops;
    while (now() < begin + seconds)
        vitastor_c_uring_wait_events(b.c);
    double time = now() - begin;
    used = cpu() - used;
    ops = b.ops - ops;
    printf("%.0f ops/s, %.2f us CPU per operation\n", ops / time, used / ops * 1e6);
    b.ending = 1;
    while (b.running)
        vitastor_c_uring_wait_events(b.c);
    vitastor_c_destroy(b.c);
    return 0;
}
