/* Helpers of the programs that test the C library. SPDX-License-Identifier: MIT */
#ifndef CAPI_H
#define CAPI_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vitastor_c.h"

/* The test fails. */
#define MUST(cond, ...) \
    do { \
        if (!(cond)) { \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #cond); \
            fprintf(stderr, __VA_ARGS__); \
            fprintf(stderr, "\n"); \
            exit(1); \
        } \
    } while (0)

struct result {
    int done;
    long value;
    uint64_t version;
    uint8_t *bitmap;
};

static inline void io_done(void *opaque, long retval)
{
    struct result *r = opaque;
    MUST(!r->done, "called twice");
    r->value = retval;
    r->done = 1;
}

static inline void read_done(void *opaque, long retval, uint64_t version)
{
    ((struct result *)opaque)->version = version;
    io_done(opaque, retval);
}

static inline void bitmap_done(void *opaque, long retval, uint8_t *bitmap)
{
    ((struct result *)opaque)->bitmap = bitmap;
    io_done(opaque, retval);
}

static inline long finish(vitastor_c *c, struct result *r)
{
    while (!r->done)
        vitastor_c_uring_wait_events(c);
    return r->value;
}

static inline vitastor_c *connect_etcd(const char *etcd)
{
    const char *options[] = { "etcd_address", etcd, "log_level", "0" };
    vitastor_c *c = vitastor_c_create_uring_json(options, 4);
    MUST(c, "%s", vitastor_c_get_error(NULL));
    return c;
}

static inline void *open_image(vitastor_c *c, const char *name)
{
    struct result r = { 0 };
    vitastor_c_watch_inode(c, (char *)name, io_done, &r);
    void *handle = (void *)finish(c, &r);
    MUST(handle, "no handle");
    return handle;
}

static inline long do_read(vitastor_c *c, uint64_t inode, uint64_t offset, uint64_t len, void *buf, uint64_t *version)
{
    struct result r = { 0 };
    struct iovec iov = { buf, len };
    vitastor_c_read(c, inode, offset, len, &iov, 1, read_done, &r);
    finish(c, &r);
    if (version)
        *version = r.version;
    return r.value;
}

static inline long do_write(vitastor_c *c, uint64_t inode, uint64_t offset, uint64_t len, void *buf, uint64_t version)
{
    struct result r = { 0 };
    struct iovec iov = { buf, len };
    vitastor_c_write(c, inode, offset, len, version, &iov, 1, io_done, &r);
    return finish(c, &r);
}

static inline long do_delete(vitastor_c *c, uint64_t inode, uint64_t offset, uint64_t len, uint64_t version)
{
    struct result r = { 0 };
    vitastor_c_delete(c, inode, offset, len, version, io_done, &r);
    return finish(c, &r);
}

static inline long do_bitmap(vitastor_c *c, uint64_t inode, uint64_t offset, uint64_t len, int parents, uint8_t **bitmap)
{
    struct result r = { 0 };
    vitastor_c_read_bitmap(c, inode, offset, len, parents, bitmap_done, &r);
    finish(c, &r);
    *bitmap = r.bitmap;
    return r.value;
}

static inline long do_sync(vitastor_c *c)
{
    struct result r = { 0 };
    vitastor_c_sync(c, io_done, &r);
    return finish(c, &r);
}

#endif
