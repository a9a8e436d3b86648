/* Data of images: reading, writing, removing, allocation, sizes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include "qemu/memalign.h"

#include "vitastor.h"

/* AIO_WAIT_WHILE of headers */
#pragma weak global_aio_wait

#define STATUS_BYTES (32 << 20) /* of one look at allocation */
#define STATUS_NS (1000 * 1000 * 1000ll) /* how long it may be used: others write, too */
#define DISCARD_MAX (1u << 30)

/* ---- Facts */

int64_t vitastor_getlength(BlockDriverState *bs)
{
    return ((VitastorState *)bs->opaque)->length;
}

int vitastor_get_info(BlockDriverState *bs, BlockDriverInfo *info)
{
    info->cluster_size = 4096;
    return 0;
}

int vitastor_probe_blocksizes(BlockDriverState *bs, BlockSizes *sizes)
{
    sizes->phys = 4096;
    sizes->log = 512;
    return 0;
}

void vitastor_refresh_limits(BlockDriverState *bs, Error **errp)
{
    VitastorState *s = bs->opaque;
    bs->bl.request_alignment = MAX(s->granule, 512);
    bs->bl.min_mem_alignment = 4096;
    bs->bl.opt_mem_alignment = 4096;
    if (vitastor_c_zero_objects) {
        bs->bl.pdiscard_alignment = bs->bl.pwrite_zeroes_alignment = s->object;
        bs->bl.max_pdiscard = bs->bl.max_pwrite_zeroes = DISCARD_MAX;
    }
}

/* Nobody knows whether an image is empty: it exists before QEMU sees it. */
int vitastor_has_zero_init(BlockDriverState *bs)
{
    return 0;
}

int64_t vitastor_get_allocated_file_size(BlockDriverState *bs)
{
    VitastorState *s = bs->opaque;
    VitastorCall c;
    if (!vitastor_c_get_used || (!VITASTOR_CO_FACTS && qemu_in_coroutine())) {
        return -ENOTSUP;
    }
    vitastor_begin(s, &c);
    vitastor_c_get_used(s->client, vitastor_inode(s), vitastor_io_cb, &c);
    return vitastor_end(bs, &c);
}

/* ---- Data */

int coroutine_fn vitastor_co_preadv(BlockDriverState *bs, int64_t offset, int64_t bytes, QEMUIOVector *iov,
    BdrvRequestFlags flags)
{
    VitastorState *s = bs->opaque;
    VitastorCall c;
    vitastor_begin(s, &c);
    vitastor_c_read(s->client, vitastor_inode(s), offset, bytes, iov->iov, iov->niov, vitastor_read_cb, &c);
    long r = vitastor_end(bs, &c);
    return r < 0 ? r : 0;
}

/* What was known of allocation is not true any more; with s->lock. */
static void vitastor_changed(VitastorState *s)
{
    s->changes++;
    free(s->status);
    s->status = NULL;
}

/* Tells whether a change was refused because the image has become a snapshot
 * meanwhile: then it is to be repeated on the layer that has its name now. */
static bool vitastor_moved(VitastorState *s, uint64_t inode, long ret)
{
    uint64_t now = vitastor_inode(s);
    return ret == -EROFS && now && now != inode;
}

int coroutine_fn vitastor_co_pwritev(BlockDriverState *bs, int64_t offset, int64_t bytes, QEMUIOVector *iov,
    BdrvRequestFlags flags)
{
    VitastorState *s = bs->opaque;
    VitastorCall c;
    uint64_t inode;
    long r;
    do {
        vitastor_begin(s, &c);
        vitastor_changed(s);
        inode = vitastor_inode(s);
        vitastor_c_write(s->client, inode, offset, bytes, 0, iov->iov, iov->niov, vitastor_io_cb, &c);
        r = vitastor_end(bs, &c);
    } while (vitastor_moved(s, inode, r));
    return r < 0 ? r : 0;
}

int coroutine_fn vitastor_co_flush(BlockDriverState *bs)
{
    VitastorState *s = bs->opaque;
    VitastorCall c;
    vitastor_begin(s, &c);
    vitastor_c_sync(s->client, vitastor_io_cb, &c);
    return vitastor_end(bs, &c);
}

/* Removes whole objects. -ENOTSUP: there is another layer below; -EAGAIN: they
 * may come back, because OSDs that have them are down. */
static int coroutine_fn vitastor_co_remove(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    VitastorState *s = bs->opaque;
    VitastorCall c;
    if (!vitastor_c_zero_objects || offset % s->object || bytes % s->object) {
        return -ENOTSUP;
    }
    vitastor_begin(s, &c);
    vitastor_changed(s);
    vitastor_c_zero_objects(s->client, vitastor_inode(s), offset, bytes, vitastor_io_cb, &c);
    long r = vitastor_end(bs, &c);
    return r < 0 ? r : 0;
}

/* -ENOTSUP lets QEMU write zeroes. */
int coroutine_fn vitastor_co_pwrite_zeroes(BlockDriverState *bs, int64_t offset, int64_t bytes, BdrvRequestFlags flags)
{
    if (!(flags & BDRV_REQ_MAY_UNMAP)) {
        return -ENOTSUP;
    }
    int r = vitastor_co_remove(bs, offset, bytes);
    return r == -EAGAIN || r == -EROFS ? -ENOTSUP : r;
}

/* A discard promises nothing, so what may come back does not matter. */
int coroutine_fn vitastor_co_pdiscard(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    int r = vitastor_co_remove(bs, offset, bytes);
    return r == -EAGAIN || r == -EROFS ? 0 : r;
}

/* Makes the image smaller: what is cut off must not come back when it grows. */
static int coroutine_fn vitastor_co_cut(BlockDriverState *bs, uint64_t from, Error **errp)
{
    VitastorState *s = bs->opaque;
    uint64_t object = s->object, end = ROUND_UP(s->length, object), whole = MIN(ROUND_UP(from, object), end);
    int r = 0;
    if (whole > from) {
        uint64_t bytes = MIN(whole, s->length) - from;
        void *zeroes = qemu_try_blockalign0(bs, bytes);
        QEMUIOVector iov;
        if (!zeroes) {
            return -ENOMEM;
        }
        qemu_iovec_init_buf(&iov, zeroes, bytes);
        r = vitastor_co_pwritev(bs, from, bytes, &iov, 0);
        qemu_vfree(zeroes);
    }
    for (uint64_t at = whole; !r && at < end; at += MIN(end - at, DISCARD_MAX)) {
        r = vitastor_co_remove(bs, at, MIN(end - at, DISCARD_MAX));
    }
    if (r == -ENOTSUP) {
        error_setg(errp, "vitastor: an image that is based on another one cannot be made smaller here");
    } else if (r == -EAGAIN) {
        error_setg(errp, "vitastor: OSDs are down that have data to be removed: try again when they are up");
    } else if (r) {
        error_setg_errno(errp, -r, "vitastor: what lies beyond the new end cannot be removed");
    }
    return r;
}

int coroutine_fn vitastor_co_truncate(BlockDriverState *bs, int64_t offset, bool exact, PreallocMode prealloc,
    BdrvRequestFlags flags, Error **errp)
{
    VitastorState *s = bs->opaque;
    VitastorCall c;
    if (prealloc != PREALLOC_MODE_OFF) {
        error_setg(errp, "vitastor: there is no preallocation");
        return -ENOTSUP;
    }
    if (!exact && offset <= s->length) {
        return 0;
    }
    uint64_t real = s->watch ? vitastor_c_inode_get_size(s->watch) : 0;
    if (s->watch && vitastor_c_resize && real != offset) {
        int r = offset < s->length ? vitastor_co_cut(bs, offset, errp) : 0;
        if (r) {
            return r;
        }
        vitastor_begin(s, &c);
        vitastor_c_resize(s->client, s->watch, offset, vitastor_io_cb, &c);
        r = vitastor_end(bs, &c);
        if (r) {
            error_setg_errno(errp, -r, "vitastor: image '%s' cannot get another size%s", s->image,
                r == -EINVAL ? ", which must be a multiple of 4096" : "");
            return r;
        }
    }
    s->length = offset;
    return 0;
}

/* ---- Allocation */

/* Looks at the allocation around offset; 0 or -errno. */
static int coroutine_fn vitastor_co_look(BlockDriverState *bs, int64_t offset, int64_t bytes)
{
    VitastorState *s = bs->opaque;
    VitastorCall c;
    vitastor_begin(s, &c);
    uint64_t inode = vitastor_inode(s), object = s->object, changes = s->changes;
    uint64_t from = QEMU_ALIGN_DOWN(offset, object);
    uint64_t end = MIN(QEMU_ALIGN_UP(offset + bytes, object), from + MAX(object, QEMU_ALIGN_DOWN(STATUS_BYTES, object)));
    vitastor_c_read_bitmap(s->client, inode, from, end - from, !s->skip_parents, vitastor_bitmap_cb, &c);
    long r = vitastor_end(bs, &c);
    if (r < 0) {
        return r;
    }
    pthread_mutex_lock(&s->lock);
    free(s->status);
    s->status = c.t.bitmap;
    s->status_inode = inode;
    s->status_offset = from;
    s->status_bytes = end - from;
    /* older than a change that has begun meanwhile: for this one use only */
    s->status_time = changes == s->changes ? qemu_clock_get_ns(QEMU_CLOCK_REALTIME) : 0;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

/* The run of equal granules at offset, from what is known; false = look again. */
static bool vitastor_run(VitastorState *s, int64_t offset, int64_t bytes, bool fresh, int64_t *n, bool *allocated)
{
    bool ok = false;
    pthread_mutex_lock(&s->lock);
    if (s->status && s->status_inode == vitastor_inode(s) && offset >= s->status_offset &&
        offset < s->status_offset + s->status_bytes &&
        (fresh || qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - s->status_time < STATUS_NS)) {
        uint64_t g = s->granule, bit = (offset - s->status_offset) / g, first = bit, bits = s->status_bytes / g;
        *allocated = s->status[bit / 8] >> bit % 8 & 1;
        while (bit < bits && (s->status[bit / 8] >> bit % 8 & 1) == *allocated) {
            bit++;
        }
        *n = MIN((bit - first) * g - (offset - s->status_offset) % g, bytes);
        ok = true;
    }
    pthread_mutex_unlock(&s->lock);
    return ok;
}

int coroutine_fn vitastor_co_block_status(BlockDriverState *bs, VitastorStatusMode mode, int64_t offset, int64_t bytes,
    int64_t *pnum, int64_t *map, BlockDriverState **file)
{
    VitastorState *s = bs->opaque;
    bool allocated = true;
    for (int tries = 0; !vitastor_run(s, offset, bytes, tries > 0, pnum, &allocated); tries++) {
        int r = tries < 3 ? vitastor_co_look(bs, offset, bytes) : 0;
        if (r < 0) {
            return r;
        }
        if (tries >= 3) { /* it changes faster than we can look */
            *pnum = bytes;
            break;
        }
    }
    *map = offset;
    *file = bs;
    if (allocated) {
        return BDRV_BLOCK_DATA | BDRV_BLOCK_OFFSET_VALID;
    }
    /* with skip-parents it says what this layer has, for exporting differences */
    return s->skip_parents ? 0 : BDRV_BLOCK_ZERO | BDRV_BLOCK_OFFSET_VALID;
}

void coroutine_fn vitastor_co_invalidate_cache(BlockDriverState *bs, Error **errp)
{
    VitastorState *s = bs->opaque;
    pthread_mutex_lock(&s->lock);
    vitastor_changed(s);
    pthread_mutex_unlock(&s->lock);
    if (s->watch && vitastor_c_inode_get_size(s->watch)) {
        s->length = vitastor_c_inode_get_size(s->watch);
    }
}
