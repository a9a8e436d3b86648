/* The block driver's parts.
 *   vitastor-qemu.h  versions of QEMU
 *   vitastor.c       requests, events, opening, the table of functions
 *   vitastor-name.c  file names and options
 *   vitastor-data.c  reading, writing, removing, allocation, sizes
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_VITASTOR_H
#define BLOCK_VITASTOR_H

#include <pthread.h>

#include "qemu/option.h"

#include "vitastor_c.h"
#include "vitastor-qemu.h"

/* Functions that only our library has. */
#pragma weak vitastor_c_get_error
#pragma weak vitastor_c_resize
#pragma weak vitastor_c_get_used
#pragma weak vitastor_c_zero_objects

struct VitastorState;

typedef struct VitastorFD {
    struct VitastorState *s;
    int fd;
    IOHandler *fd_read, *fd_write;
    void *opaque;
    QLIST_ENTRY(VitastorFD) next;
} VitastorFD;

typedef struct VitastorTask {
    Coroutine *co; /* NULL = somebody polls done */
    bool submitting;
    bool done;
    long ret;
    uint8_t *bitmap;
    QSIMPLEQ_ENTRY(VitastorTask) next;
} VitastorTask;

typedef struct VitastorState {
    char *image, *config_path, *etcd_host, *etcd_prefix, *mirror_path;
    char *use_rdma, *rdma_device, *rdma_port_num, *rdma_gid_index, *rdma_mtu;
    uint64_t pool, inode, size; /* options */
    bool skip_parents;

    pthread_mutex_t lock; /* of everything below; never held while a coroutine runs */
    vitastor_c *client;
    int fd; /* of the library, or -1 in the fallback, which has several */
    void *watch;
    bool old_library; /* submissions do not make its descriptors readable */
    uint64_t length;
    uint64_t object, granule; /* bytes; they never change */
    AioContext *ctx; /* where descriptors are watched */
    QLIST_HEAD(, VitastorFD) fds;
    QSIMPLEQ_HEAD(VitastorTasks, VitastorTask) woken;

    /* what the last look at allocation has told */
    uint64_t status_inode, status_offset, status_bytes;
    int64_t status_time;
    uint64_t changes; /* writes so far */
    uint8_t *status;
} VitastorState;

typedef struct VitastorCall {
    VitastorTask t;
    VitastorState *s;
} VitastorCall;

static inline uint64_t vitastor_inode(VitastorState *s)
{
    return s->watch ? vitastor_c_inode_get_num(s->watch) : s->pool << (64 - POOL_ID_BITS) | s->inode;
}

/* vitastor.c: vitastor_begin, a call of the library with the callback below, vitastor_end. */

void vitastor_unlock(VitastorState *s);
void vitastor_io_cb(void *opaque, long ret);
void vitastor_read_cb(void *opaque, long ret, uint64_t version);
void vitastor_bitmap_cb(void *opaque, long ret, uint8_t *bitmap);
void vitastor_begin(VitastorState *s, VitastorCall *c);
long vitastor_end(BlockDriverState *bs, VitastorCall *c);

/* vitastor-name.c */

void vitastor_parse_filename(const char *filename, QDict *options, Error **errp);
bool vitastor_read_options(VitastorState *s, QDict *options, Error **errp);
void vitastor_read_config(VitastorState *s);
void vitastor_free_options(VitastorState *s);
int coroutine_fn vitastor_co_create_opts(BlockDriver *drv, const char *url, QemuOpts *opts, Error **errp);
void vitastor_refresh_filename(BlockDriverState *bs);

/* vitastor-data.c */

int64_t vitastor_getlength(BlockDriverState *bs);
int vitastor_get_info(BlockDriverState *bs, BlockDriverInfo *info);
int vitastor_probe_blocksizes(BlockDriverState *bs, BlockSizes *sizes);
void vitastor_refresh_limits(BlockDriverState *bs, Error **errp);
int vitastor_has_zero_init(BlockDriverState *bs);
int64_t vitastor_get_allocated_file_size(BlockDriverState *bs);
int coroutine_fn vitastor_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes, QEMUIOVector *iov,
    BdrvRequestFlags flags);
int coroutine_fn vitastor_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes, QEMUIOVector *iov,
    BdrvRequestFlags flags);
int coroutine_fn vitastor_co_flush(BlockDriverState *bs);
int coroutine_fn vitastor_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes, BdrvRequestFlags flags);
int coroutine_fn vitastor_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes);
int coroutine_fn vitastor_co_truncate(BlockDriverState *bs, int64_t offset, bool exact, PreallocMode prealloc,
    BdrvRequestFlags flags, Error **errp);
int coroutine_fn vitastor_co_block_status(BlockDriverState *bs, VitastorStatusMode mode, int64_t offset, int64_t bytes,
    int64_t *pnum, int64_t *map, BlockDriverState **file);
void coroutine_fn vitastor_co_invalidate_cache(BlockDriverState *bs, Error **errp);

#endif
