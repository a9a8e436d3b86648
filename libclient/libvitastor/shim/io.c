/* Operations: they wait in a queue for the next step, and their callbacks run
 * after it, here, in the caller's thread.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "shim.h"

vcore_op *op_new(vitastor_c *c, int kind, void *cb, void *opaque)
{
    vcore_op *op = c->free_ops;
    if (op) {
        c->free_ops = op->next;
    } else if (!(op = malloc(sizeof(*op)))) {
        fprintf(stderr, "vitastor: out of memory\n");
        abort();
    }
    memset(op, 0, offsetof(vcore_op, inline_iov));
    op->kind = kind;
    op->cb = cb;
    op->opaque = opaque;
    return op;
}

static void op_free(vitastor_c *c, vcore_op *op)
{
    if (op->iov && op->iov != op->inline_iov)
        free(op->iov);
    op->next = c->free_ops;
    c->free_ops = op;
}

void op_submit(vitastor_c *c, vcore_op *op)
{
    if (c->core.submit_tail)
        c->core.submit_tail->next = op;
    else
        c->core.submit_head = op;
    c->core.submit_tail = op;
    if (core_forked) {
        client_run(c, VCORE_SUBMIT);
    } else if (c->polled && !c->kicked && !c->busy) {
        c->kicked = eventfd_write(c->core.wake_fd, 1) == 0;
    }
}

static void deliver(vitastor_c *c, vcore_op *op)
{
    void *cb = op->cb, *opaque = op->opaque;
    long retval = op->retval;
    uint64_t version = op->version;
    uint8_t *bitmap = op->bitmap;
    uint32_t kind = op->kind;
    vcore_image *image = op->image;
    op_free(c, op);
    switch (kind) {
    case VCORE_READ:
        ((VitastorReadHandler *)cb)(opaque, retval, version);
        break;
    case VCORE_BITMAP:
    case VCORE_CHAIN_BITMAP:
        ((VitastorReadBitmapHandler *)cb)(opaque, retval, bitmap);
        break;
    case VCORE_WATCH:
        ((VitastorIOHandler *)cb)(opaque, (long)image);
        break;
    case VCORE_UNWATCH:
        image_free(image);
        break;
    default:
        ((VitastorIOHandler *)cb)(opaque, retval);
    }
}

int ops_deliver(vitastor_c *c)
{
    int n = 0;
    while (c->core.done_head && !c->destroyed) {
        vcore_op *op = c->core.done_head;
        c->core.done_head = op->next;
        if (!op->next)
            c->core.done_tail = NULL;
        deliver(c, op);
        n++;
    }
    return n;
}

void ops_fail(vitastor_c *c, long err)
{
    static int told;
    if (!told) {
        fprintf(stderr, "vitastor: this process is a fork of the one that made the client, and cannot use it: "
            "all operations fail. Make clients after fork()\n");
        told = 1;
    }
    while (c->core.submit_head) {
        vcore_op *op = c->core.submit_head;
        c->core.submit_head = op->next;
        op->next = NULL;
        op->retval = err;
        if (c->core.done_tail)
            c->core.done_tail->next = op;
        else
            c->core.done_head = op;
        c->core.done_tail = op;
    }
    c->core.submit_tail = NULL;
}

static void list_free(vitastor_c *c, vcore_op *op)
{
    while (op) {
        vcore_op *next = op->next;
        /* nobody has this handle (any more) */
        if (op->kind == VCORE_WATCH || op->kind == VCORE_UNWATCH)
            image_free(op->image);
        free(op->bitmap);
        op_free(c, op);
        op = next;
    }
}

void ops_free(vitastor_c *c)
{
    list_free(c, c->core.submit_head);
    list_free(c, c->core.done_head);
    while (c->free_ops) {
        vcore_op *next = c->free_ops->next;
        free(c->free_ops);
        c->free_ops = next;
    }
}

/* An operation on a range, with a copy of its vector. */
static vcore_op *range_op(vitastor_c *c, int kind, uint64_t inode, uint64_t offset, uint64_t len,
    const struct iovec *iov, int iovcnt, void *cb, void *opaque)
{
    vcore_op *op = op_new(c, kind, cb, opaque);
    op->inode = inode;
    op->offset = offset;
    op->len = len;
    if (iov && iovcnt > 0) {
        op->iov = op->inline_iov;
        if (iovcnt > VCORE_INLINE_IOV && !(op->iov = malloc(iovcnt * sizeof(*iov)))) {
            fprintf(stderr, "vitastor: out of memory\n");
            abort();
        }
        memcpy(op->iov, iov, iovcnt * sizeof(*iov));
        op->iovcnt = iovcnt;
    }
    return op;
}

PUBLIC void vitastor_c_read(vitastor_c *client, uint64_t inode, uint64_t offset, uint64_t len, struct iovec *iov,
    int iovcnt, VitastorReadHandler *cb, void *opaque)
{
    op_submit(client, range_op(client, VCORE_READ, inode, offset, len, iov, iovcnt, (void *)cb, opaque));
}

PUBLIC void vitastor_c_write(vitastor_c *client, uint64_t inode, uint64_t offset, uint64_t len, uint64_t check_version,
    struct iovec *iov, int iovcnt, VitastorIOHandler *cb, void *opaque)
{
    vcore_op *op = range_op(client, VCORE_WRITE, inode, offset, len, iov, iovcnt, (void *)cb, opaque);
    op->version = check_version;
    op_submit(client, op);
}

PUBLIC void vitastor_c_delete(vitastor_c *client, uint64_t inode, uint64_t offset, uint64_t len, uint64_t check_version,
    VitastorIOHandler *cb, void *opaque)
{
    vcore_op *op = range_op(client, VCORE_DELETE, inode, offset, len, NULL, 0, (void *)cb, opaque);
    op->version = check_version;
    op_submit(client, op);
}

PUBLIC void vitastor_c_read_bitmap(vitastor_c *client, uint64_t inode, uint64_t offset, uint64_t len, int with_parents,
    VitastorReadBitmapHandler *cb, void *opaque)
{
    op_submit(client, range_op(client, with_parents ? VCORE_CHAIN_BITMAP : VCORE_BITMAP, inode, offset, len, NULL, 0,
        (void *)cb, opaque));
}

PUBLIC void vitastor_c_zero_objects(vitastor_c *client, uint64_t inode, uint64_t offset, uint64_t len, VitastorIOHandler *cb,
    void *opaque)
{
    op_submit(client, range_op(client, VCORE_ZERO, inode, offset, len, NULL, 0, (void *)cb, opaque));
}

PUBLIC void vitastor_c_sync(vitastor_c *client, VitastorIOHandler *cb, void *opaque)
{
    op_submit(client, op_new(client, VCORE_SYNC, (void *)cb, opaque));
}

PUBLIC void vitastor_c_on_ready(vitastor_c *client, VitastorIOHandler *cb, void *opaque)
{
    op_submit(client, op_new(client, VCORE_READY, (void *)cb, opaque));
}

PUBLIC void vitastor_c_get_used(vitastor_c *client, uint64_t inode, VitastorIOHandler *cb, void *opaque)
{
    op_submit(client, range_op(client, VCORE_USED, inode, 0, 0, NULL, 0, (void *)cb, opaque));
}
