/* Writes a sentence to an image and reads it back, with a loop of its own.
 *
 *   cc hello.c $(pkg-config --cflags --libs vitastor) -o hello
 *   ./hello image [etcd_address]
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vitastor_c.h>

/* What a callback has told. */
struct result {
    int done;
    long value;
};

static void done(void *opaque, long retval)
{
    struct result *r = opaque;
    r->value = retval;
    r->done = 1;
}

static void read_done(void *opaque, long retval, uint64_t version)
{
    (void)version;
    done(opaque, retval);
}

static long wait_for(vitastor_c *c, struct result *r)
{
    while (!r->done)
        vitastor_c_uring_wait_events(c);
    return r->value;
}

static void check(const char *what, long retval, long want)
{
    if (retval != want) {
        fprintf(stderr, "%s: %s\n", what, retval < 0 ? strerror(-retval) : "wrong length");
        exit(1);
    }
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s image [etcd_address]\n", argv[0]);
        return 2;
    }
    const char *options[] = { "etcd_address", argc > 2 ? argv[2] : "" };
    vitastor_c *c = vitastor_c_create_uring_json(options, argc > 2 ? 2 : 0);
    if (!c)
        return 1; /* the reason is on stderr */

    struct result watch = { 0 };
    vitastor_c_watch_inode(c, argv[1], done, &watch);
    void *image = (void *)wait_for(c, &watch);
    uint64_t inode = vitastor_c_inode_get_num(image);
    if (!inode) {
        fprintf(stderr, "there is no image %s: create it with vitastor-cli create\n", argv[1]);
        return 1;
    }

    size_t size = vitastor_c_inode_get_bitmap_granularity(c, inode);
    char *buf = aligned_alloc(size, size);
    memset(buf, 0, size);
    strcpy(buf, "hello, world of blocks");
    struct iovec iov = { buf, size };
    struct result write = { 0 }, sync = { 0 }, read = { 0 };
    vitastor_c_write(c, inode, 0, size, 0, &iov, 1, done, &write);
    check("write", wait_for(c, &write), size);
    vitastor_c_sync(c, done, &sync);
    check("sync", wait_for(c, &sync), 0);

    memset(buf, 0, size);
    vitastor_c_read(c, inode, 0, size, &iov, 1, read_done, &read);
    check("read", wait_for(c, &read), size);
    printf("%s (%llu MiB) says: %s\n", argv[1], (unsigned long long)vitastor_c_inode_get_size(image) >> 20, buf);

    vitastor_c_close_watch(c, image);
    vitastor_c_destroy(c);
    free(buf);
    return 0;
}
