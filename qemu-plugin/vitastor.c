/* QEMU block driver "vitastor": images of a cluster, through libvitastor_client.
 *
 * A request is a coroutine that submits to the library, in whatever thread QEMU
 * runs it, and yields. The library's descriptor is watched in the AioContext of
 * the node; its handler runs the library, whose callbacks only put requests on a
 * list, and wakes the coroutines of the list afterwards.
 *
 *   coroutine ─▶ vitastor_c_read... under s->lock ─▶ yield
 *   AioContext: descriptor readable ─▶ handle_events under s->lock ─▶ s->woken ─▶ aio_co_wake
 *
 * A callback that is called inside the submission itself (libraries may do that)
 * is noticed by t->submitting: then there is no yield and no wake-up.
 *
 * For QEMU 7.2 to 10.2; what differs is in vitastor-qemu.h. The same file is a module ("block-vitastor.so") and can be
 * preloaded into a QEMU that does not know it; see README.md.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include <dlfcn.h>
#include <poll.h>

#include "qemu/error-report.h"
#include "qemu/module.h"

#include "vitastor.h"

/* Preloading reaches every child process: what it does not have must be weak. */
#pragma weak global_aio_wait
#pragma weak register_module_init
#pragma weak register_dso_module_init

/* ---- Requests and events */

static void vitastor_wake(struct VitastorTasks *list)
{
    VitastorTask *t, *next;
    QSIMPLEQ_FOREACH_SAFE(t, list, next, next) {
        if (t->co) {
            aio_co_wake(t->co);
        } else {
            qatomic_store_release(&t->done, true);
            aio_wait_kick();
        }
    }
}

void vitastor_unlock(VitastorState *s)
{
    struct VitastorTasks list = QSIMPLEQ_HEAD_INITIALIZER(list);
    QSIMPLEQ_CONCAT(&list, &s->woken);
    pthread_mutex_unlock(&s->lock);
    /* s may vanish with the last request */
    vitastor_wake(&list);
}

static void vitastor_task_done(VitastorState *s, VitastorTask *t, long ret)
{
    t->ret = ret;
    if (t->submitting) {
        t->submitting = false;
    } else {
        QSIMPLEQ_INSERT_TAIL(&s->woken, t, next);
    }
}

void vitastor_io_cb(void *opaque, long ret)
{
    VitastorCall *c = opaque;
    vitastor_task_done(c->s, &c->t, ret);
}

void vitastor_read_cb(void *opaque, long ret, uint64_t version)
{
    vitastor_io_cb(opaque, ret);
}

void vitastor_bitmap_cb(void *opaque, long ret, uint8_t *bitmap)
{
    VitastorCall *c = opaque;
    c->t.bitmap = bitmap;
    vitastor_io_cb(opaque, ret);
}

/* A call of the library: begin, submit, end. */
void vitastor_begin(VitastorState *s, VitastorCall *c)
{
    c->s = s;
    c->t = (VitastorTask){ .co = qemu_in_coroutine() ? qemu_coroutine_self() : NULL, .submitting = true };
    pthread_mutex_lock(&s->lock);
}

/* Waits outside of coroutines, by running the library here: the AioContext may be
 * another thread's, and its lock ours or not, which callers of drivers in the main
 * thread do not agree about. */
static void vitastor_poll(BlockDriverState *bs, VitastorCall *c)
{
    VitastorState *s = c->s;
    struct pollfd p = { .fd = s->fd, .events = POLLIN };
    if (s->fd < 0) {
        BDRV_POLL_WHILE(bs, !qatomic_load_acquire(&c->t.done));
    }
    while (!qatomic_load_acquire(&c->t.done)) {
        poll(&p, 1, 10); /* somebody else may run the library, too */
        pthread_mutex_lock(&s->lock);
        vitastor_c_uring_handle_events(s->client);
        vitastor_unlock(s);
    }
}

long vitastor_end(BlockDriverState *bs, VitastorCall *c)
{
    VitastorState *s = c->s;
    if (s->old_library) {
        vitastor_c_uring_handle_events(s->client);
    }
    bool pending = c->t.submitting;
    c->t.submitting = false;
    vitastor_unlock(s);
    if (pending && c->t.co) {
        qemu_coroutine_yield();
    } else if (pending) {
        vitastor_poll(bs, c);
    }
    return c->t.ret;
}

static void vitastor_handle_events(void *opaque)
{
    vitastor_c_uring_handle_events(((VitastorState *)opaque)->client);
}

/* Runs a handler of the library, which may free f. */
static void vitastor_ready(VitastorFD *f, IOHandler *handler)
{
    VitastorState *s = f->s;
    pthread_mutex_lock(&s->lock);
    handler(f->opaque);
    vitastor_unlock(s);
}

static void vitastor_readable(void *opaque)
{
    VitastorFD *f = opaque;
    vitastor_ready(f, f->fd_read);
}

static void vitastor_writable(void *opaque)
{
    VitastorFD *f = opaque;
    vitastor_ready(f, f->fd_write);
}

static void vitastor_watch_fd(AioContext *ctx, VitastorFD *f, bool on)
{
    vitastor_aio_set_fd(ctx, f->fd, on && f->fd_read ? vitastor_readable : NULL, on && f->fd_write ? vitastor_writable : NULL,
        on ? f : NULL);
}

static void vitastor_set_fd(void *ctx, int fd, int is_external, IOHandler *fd_read, IOHandler *fd_write, void *poll_fn,
    void *opaque)
{
    VitastorState *s = ctx;
    VitastorFD *f;
    QLIST_FOREACH(f, &s->fds, next) {
        if (f->fd == fd) {
            break;
        }
    }
    if (f) {
        vitastor_watch_fd(s->ctx, f, false);
        QLIST_REMOVE(f, next);
        g_free(f);
    }
    if (fd_read || fd_write) {
        f = g_new0(VitastorFD, 1);
        *f = (VitastorFD){ .s = s, .fd = fd, .fd_read = fd_read, .fd_write = fd_write, .opaque = opaque };
        QLIST_INSERT_HEAD(&s->fds, f, next);
        vitastor_watch_fd(s->ctx, f, true);
    }
}

static void vitastor_detach_aio_context(BlockDriverState *bs)
{
    VitastorState *s = bs->opaque;
    VitastorFD *f;
    QLIST_FOREACH(f, &s->fds, next) {
        vitastor_watch_fd(s->ctx, f, false);
    }
    s->ctx = NULL;
}

static void vitastor_attach_aio_context(BlockDriverState *bs, AioContext *ctx)
{
    VitastorState *s = bs->opaque;
    VitastorFD *f;
    s->ctx = ctx;
    QLIST_FOREACH(f, &s->fds, next) {
        vitastor_watch_fd(ctx, f, true);
    }
}

/* ---- Open and close */

static void vitastor_add(const char **list, int *n, const char *key, const char *value)
{
    if (value) {
        list[(*n)++] = key;
        list[(*n)++] = value;
    }
}

static int vitastor_connect(VitastorState *s, int flags, Error **errp)
{
    const char *list[32];
    int n = 0;
    char version[32];
    memset(version, ' ', sizeof(version) - 1);
    version[sizeof(version) - 1] = 0;
    vitastor_add(list, &n, "config_path", s->config_path);
    vitastor_add(list, &n, "etcd_address", s->etcd_host);
    vitastor_add(list, &n, "etcd_prefix", s->etcd_prefix);
    vitastor_add(list, &n, "use_rdma", s->use_rdma);
    vitastor_add(list, &n, "rdma_device", s->rdma_device);
    vitastor_add(list, &n, "rdma_port_num", s->rdma_port_num);
    vitastor_add(list, &n, "rdma_gid_index", s->rdma_gid_index);
    vitastor_add(list, &n, "rdma_mtu", s->rdma_mtu);
    vitastor_add(list, &n, "client_writeback_allowed", flags & BDRV_O_NOCACHE ? "0" : "1");
    vitastor_add(list, &n, "__version_check_buffer", version);
    s->client = vitastor_c_create_uring_json(list, n);
    if (s->client) {
        int fd = vitastor_c_uring_register_eventfd(s->client);
        if (fd < 0) {
            error_setg_errno(errp, -fd, "vitastor: the library has no descriptor");
            return fd;
        }
        s->fd = fd;
        s->old_library = atoi(version) < 2;
        vitastor_set_fd(s, fd, 0, vitastor_handle_events, NULL, NULL, s);
        return 0;
    }
    if (vitastor_c_get_error) {
        error_setg(errp, "vitastor: %s", vitastor_c_get_error(NULL));
        return -EINVAL;
    }
    warn_report("vitastor: io_uring cannot be used (%s), falling back to something slower", strerror(errno));
    s->client = vitastor_c_create_qemu(vitastor_set_fd, s, s->config_path, s->etcd_host, s->etcd_prefix,
        s->use_rdma ? atoi(s->use_rdma) : -1, s->rdma_device, s->rdma_port_num ? atoi(s->rdma_port_num) : 0,
        s->rdma_gid_index ? atoi(s->rdma_gid_index) : 0, s->rdma_mtu ? atoi(s->rdma_mtu) : 0, 0);
    if (!s->client) {
        error_setg(errp, "vitastor: no client could be made");
        return -EINVAL;
    }
    return 0;
}

static void vitastor_free(VitastorState *s)
{
    if (s->client) {
        vitastor_c_close_watch(s->client, s->watch);
        vitastor_c_destroy(s->client);
    }
    while (!QLIST_EMPTY(&s->fds)) {
        VitastorFD *f = QLIST_FIRST(&s->fds);
        QLIST_REMOVE(f, next);
        g_free(f);
    }
    free(s->status);
    s->client = NULL;
    s->status = NULL;
    vitastor_free_options(s);
    pthread_mutex_destroy(&s->lock);
}

/* In the thread of the AioContext: no handler runs there now, nor later. */
static void vitastor_close_bh(void *opaque)
{
    BlockDriverState *bs = opaque;
    vitastor_detach_aio_context(bs);
}

static void vitastor_close(BlockDriverState *bs)
{
    VitastorState *s = bs->opaque;
    /* With cache=unsafe, the default of qemu-img convert, QEMU does not flush:
     * what the client has in its write-back cache would be lost. */
    if (s->ctx && s->length && (bs->open_flags & BDRV_O_NO_FLUSH)) {
        vitastor_co_flush(bs);
    }
    if (s->ctx && s->ctx != qemu_get_current_aio_context()) {
        aio_wait_bh_oneshot(s->ctx, vitastor_close_bh, bs);
    } else if (s->ctx) {
        vitastor_detach_aio_context(bs);
    }
    vitastor_free(s);
}

/* Waits until the cluster is known and finds the image. */
static int vitastor_find(BlockDriverState *bs, int flags, Error **errp)
{
    VitastorState *s = bs->opaque;
    VitastorCall c;
    vitastor_begin(s, &c);
    vitastor_c_watch_inode(s->client, s->image ? s->image : (char *)"", vitastor_io_cb, &c);
    s->watch = (void *)vitastor_end(bs, &c);
    const char *problem = vitastor_c_get_error ? vitastor_c_get_error(s->client) : "";
    if (*problem) {
        error_setg(errp, "vitastor: %s", problem);
        return -EIO;
    }
    if (!s->image) {
        vitastor_c_close_watch(s->client, s->watch);
        s->watch = NULL;
        s->length = s->size;
        return 0;
    }
    if (!vitastor_inode(s)) {
        error_setg(errp, "vitastor: image '%s' does not exist", s->image);
        return -ENOENT;
    }
    s->length = vitastor_c_inode_get_size(s->watch);
    if (!s->length) {
        s->length = s->size;
    }
    if (!s->length) {
        error_setg(errp, "vitastor: image '%s' has no size", s->image);
        return -EINVAL;
    }
    if (vitastor_c_inode_get_readonly(s->watch)) {
        return vitastor_force_read_only(bs, "vitastor: the image is read-only: it is a snapshot, or was marked so", errp);
    }
    return 0;
}

static int vitastor_file_open(BlockDriverState *bs, QDict *options, int flags, Error **errp)
{
    VitastorState *s = bs->opaque;
    pthread_mutex_init(&s->lock, NULL);
    QLIST_INIT(&s->fds);
    QSIMPLEQ_INIT(&s->woken);
    s->ctx = bdrv_get_aio_context(bs);
    s->fd = -1;
    int r = vitastor_read_options(s, options, errp) ? 0 : -EINVAL;
    if (!r) {
        vitastor_read_config(s);
        r = vitastor_connect(s, flags, errp);
    }
    if (!r) {
        r = vitastor_find(bs, flags, errp);
    }
    if (!r) {
        s->object = vitastor_c_inode_get_block_size(s->client, vitastor_inode(s));
        s->granule = vitastor_c_inode_get_bitmap_granularity(s->client, vitastor_inode(s));
    }
    if (!r && !s->object) {
        error_setg(errp, "vitastor: pool %" PRIu64 " does not exist", vitastor_inode(s) >> (64 - POOL_ID_BITS));
        r = -ENOENT;
    }
    if (r < 0) {
        vitastor_close(bs);
        return r;
    }
    bs->total_sectors = s->length >> BDRV_SECTOR_BITS;
    bs->supported_truncate_flags = BDRV_REQ_ZERO_WRITE;
    if (vitastor_c_zero_objects) {
        bs->supported_zero_flags = BDRV_REQ_MAY_UNMAP | BDRV_REQ_NO_FALLBACK;
    }
    return 0;
}

/* Permissions of an open image may change: a job wants to write to its base. */
static int vitastor_reopen_prepare(BDRVReopenState *state, BlockReopenQueue *queue, Error **errp)
{
    VitastorState *s = state->bs->opaque;
    if (state->flags & BDRV_O_RDWR && s->watch && vitastor_c_inode_get_readonly(s->watch)) {
        error_setg(errp, "vitastor: image '%s' is read-only", s->image);
        return -EROFS;
    }
    return 0;
}

/* ---- The driver */

static const char *const vitastor_strong_runtime_opts[] = {
    "image", "inode", "pool", "size", "config-path", "etcd-host", "etcd-prefix", NULL
};

static QemuOptsList vitastor_create_opts = {
    .name = "vitastor-create-opts",
    .head = QTAILQ_HEAD_INITIALIZER(vitastor_create_opts.head),
    .desc = {
        { .name = BLOCK_OPT_SIZE, .type = QEMU_OPT_SIZE, .help = "Virtual disk size" },
        { /* end */ },
    },
};

static BlockDriver vitastor_driver = {
    .format_name = "vitastor",
    .protocol_name = "vitastor",
    .instance_size = sizeof(VitastorState),
    .create_opts = &vitastor_create_opts,
    .strong_runtime_opts = vitastor_strong_runtime_opts,

    .bdrv_parse_filename = vitastor_parse_filename,
#if VITASTOR_ONE_OPEN
    .bdrv_open = vitastor_file_open,
#else
    .bdrv_file_open = vitastor_file_open,
#endif
    .bdrv_close = vitastor_close,
    .bdrv_reopen_prepare = vitastor_reopen_prepare,
    .bdrv_co_create_opts = vitastor_co_create_opts,
    .bdrv_refresh_filename = vitastor_refresh_filename,
    .bdrv_attach_aio_context = vitastor_attach_aio_context,
    .bdrv_detach_aio_context = vitastor_detach_aio_context,

#if VITASTOR_CO_FACTS
    .bdrv_co_getlength = vitastor_getlength,
    .bdrv_co_get_info = vitastor_get_info,
    .bdrv_co_get_allocated_file_size = vitastor_get_allocated_file_size,
#else
    .bdrv_getlength = vitastor_getlength,
    .bdrv_get_info = vitastor_get_info,
    .bdrv_get_allocated_file_size = vitastor_get_allocated_file_size,
#endif
    .bdrv_probe_blocksizes = vitastor_probe_blocksizes,
    .bdrv_refresh_limits = vitastor_refresh_limits,
    .bdrv_has_zero_init = vitastor_has_zero_init,

    .bdrv_co_preadv = vitastor_co_preadv,
    .bdrv_co_pwritev = vitastor_co_pwritev,
    .bdrv_co_flush_to_disk = vitastor_co_flush,
    .bdrv_co_pwrite_zeroes = vitastor_co_pwrite_zeroes,
    .bdrv_co_pdiscard = vitastor_co_pdiscard,
    .bdrv_co_truncate = vitastor_co_truncate,
    .bdrv_co_block_status = vitastor_co_block_status,
    .bdrv_co_invalidate_cache = vitastor_co_invalidate_cache,
};

static void vitastor_register(void)
{
    bdrv_register(&vitastor_driver);
}

/* QEMU's loader of modules looks for these names. */
__attribute__((visibility("default"))) void qemu_module_dummy(void);
void qemu_module_dummy(void)
{
}

__attribute__((visibility("default"))) void DSO_STAMP_FUN(void);
void DSO_STAMP_FUN(void)
{
}

/* Loaded as a module we announce ourselves to the loader; preloaded, to QEMU.
 * Other programs that inherit LD_PRELOAD have neither. */
static void __attribute__((constructor)) vitastor_init(void)
{
    Dl_info self;
    const char *preload = getenv("LD_PRELOAD");
    bool preloaded = preload && dladdr((void *)vitastor_init, &self) && self.dli_fname && strstr(preload, self.dli_fname);
    if (preloaded && register_module_init) {
        register_module_init(vitastor_register, MODULE_INIT_BLOCK);
    } else if (!preloaded && register_dso_module_init) {
        register_dso_module_init(vitastor_register, MODULE_INIT_BLOCK);
    }
}
