/* fio engine "vitastor_cluster": jobs on images of a cluster, through
 * libvitastor_client. It is compiled against the headers of the fio that loads
 * it (`make fio`):
 *
 *   fio --ioengine=bin/lib/libfio_vitastor.so --image=NAME --name=x --rw=randread --iodepth=16
 *
 * One job uses one image and one client, in its own thread or process. Requests
 * are sent when fio looks for completions, many at once.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fio.h"
#include "optgroup.h"

#include "vitastor_c.h"

struct options {
    void *pad; /* fio wants no option at offset 0 */
    char *config_path;
    char *etcd;
    char *etcd_prefix;
    char *image;
    unsigned int pool;
    unsigned long long inode;
    int log_level;
    int trace;
    char *mirror_file;
    int use_rdma;
    char *rdma_device;
    int rdma_port_num;
    int rdma_gid_index;
    int rdma_mtu;
    int no_io_uring;
};

struct job {
    vitastor_c *client;
    void *watch;      /* of the image; NULL = by number */
    uint64_t inode;   /* by number */
    int epoll;        /* no_io_uring */
    int changed;      /* something was written since the last sync began */
    int syncs;        /* in flight */
    int synced;       /* everything is: another sync does nothing */
    int mirror;       /* descriptor of mirror_file, or -1 */
    uint64_t object;  /* bytes */
    struct io_u **done;
    int done_count;
    int taken; /* what fio has got from done */
};

#define OPTION(n, t, field, text, ...) \
    { .name = n, .lname = n, .type = t, .off1 = offsetof(struct options, field), .help = text, \
      .category = FIO_OPT_C_ENGINE, .group = FIO_OPT_G_INVALID, __VA_ARGS__ }

static struct fio_option options[] = {
    OPTION("conf", FIO_OPT_STR_STORE, config_path, "Configuration file (default /etc/vitastor/vitastor.conf)"),
    OPTION("etcd", FIO_OPT_STR_STORE, etcd, "Addresses of etcd, separated by commas"),
    OPTION("etcd_prefix", FIO_OPT_STR_STORE, etcd_prefix, "Prefix of all keys in etcd"),
    OPTION("image", FIO_OPT_STR_STORE, image, "Name of the image"),
    OPTION("pool", FIO_OPT_INT, pool, "Pool, if there is no image name"),
    OPTION("inode", FIO_OPT_ULL, inode, "Inode number in the pool, if there is no image name; needs size"),
    OPTION("cluster_log_level", FIO_OPT_INT, log_level, "Log level of the client", .def = "0"),
    OPTION("osd_trace", FIO_OPT_BOOL, trace, "Print every request", .def = "0"),
    OPTION("mirror_file", FIO_OPT_STR_STORE, mirror_file, "File that gets everything that is written, too: for tests"),
    OPTION("use_rdma", FIO_OPT_BOOL, use_rdma, "Use RDMA", .def = "-1"),
    OPTION("rdma_device", FIO_OPT_STR_STORE, rdma_device, "RDMA device"),
    OPTION("rdma_port_num", FIO_OPT_INT, rdma_port_num, "RDMA port", .def = "0"),
    OPTION("rdma_gid_index", FIO_OPT_INT, rdma_gid_index, "RDMA GID index", .def = "0"),
    OPTION("rdma_mtu", FIO_OPT_INT, rdma_mtu, "RDMA MTU", .def = "0"),
    OPTION("no_io_uring", FIO_OPT_BOOL, no_io_uring, "Use the epoll interface of the library", .def = "0"),
    { .name = NULL },
};

/* ---- A client of a job */

static void add(const char **list, int *count, const char *key, const char *value)
{
    if (value && *value) {
        list[(*count)++] = key;
        list[(*count)++] = value;
    }
}

static void add_number(const char **list, int *count, char text[16], const char *key, int value, int unset)
{
    if (value != unset) {
        snprintf(text, 16, "%d", value);
        add(list, count, key, text);
    }
}

static void wait_events(struct job *j)
{
    if (j->epoll)
        vitastor_c_epoll_handle_events(j->client, -1);
    else
        vitastor_c_uring_wait_events(j->client);
}

static void watch_done(void *opaque, long handle)
{
    *(void **)opaque = (void *)handle;
}

/* Connects and finds the image; returns 0 or an errno, told on stderr. */
static int job_connect(struct thread_data *td, struct job *j)
{
    struct options *o = td->eo;
    const char *list[32];
    char text[5][16];
    int n = 0;
    add(list, &n, "config_path", o->config_path);
    add(list, &n, "etcd_address", o->etcd);
    add(list, &n, "etcd_prefix", o->etcd_prefix);
    add(list, &n, "rdma_device", o->rdma_device);
    add_number(list, &n, text[0], "use_rdma", o->use_rdma, -1);
    add_number(list, &n, text[1], "rdma_port_num", o->rdma_port_num, 0);
    add_number(list, &n, text[2], "rdma_gid_index", o->rdma_gid_index, 0);
    add_number(list, &n, text[3], "rdma_mtu", o->rdma_mtu, 0);
    add_number(list, &n, text[4], "log_level", o->log_level, 0);
    add(list, &n, "client_writeback_allowed", td->o.odirect ? "0" : "1");
    j->epoll = o->no_io_uring;
    j->client = j->epoll ? vitastor_c_create_epoll_json(list, n) : vitastor_c_create_uring_json(list, n);
    if (!j->client)
        return errno ? errno : EIO;
    /* also without an image: when this is done, the cluster is known */
    void *watch = NULL;
    vitastor_c_watch_inode(j->client, o->image ? o->image : "", watch_done, &watch);
    while (!watch)
        wait_events(j);
    j->watch = watch;
    if (!vitastor_c_is_ready(j->client)) {
        log_err("vitastor: the cluster cannot be reached\n");
        return EIO;
    }
    if (o->image && !vitastor_c_inode_get_num(watch)) {
        log_err("vitastor: there is no image %s\n", o->image);
        return ENOENT;
    }
    if (!o->image) {
        vitastor_c_close_watch(j->client, watch);
        j->watch = NULL;
        j->inode = (uint64_t)o->pool << (64 - POOL_ID_BITS) | o->inode;
    }
    j->object = vitastor_c_inode_get_block_size(j->client, j->watch ? vitastor_c_inode_get_num(j->watch) : j->inode);
    if (!j->object) {
        log_err("vitastor: there is no pool %u\n", o->pool);
        return ENOENT;
    }
    return 0;
}

static void job_disconnect(struct job *j)
{
    if (j->client) {
        vitastor_c_close_watch(j->client, j->watch);
        vitastor_c_destroy(j->client);
    }
    j->client = NULL;
    j->watch = NULL;
}

/* What fio asks before jobs begin. */
struct facts {
    int error;
    int readonly;
    uint64_t size;
};

static void job_facts(struct thread_data *td, struct job *j, struct facts *f)
{
    f->error = job_connect(td, j);
    f->size = td->o.size;
    if (!f->error && j->watch) {
        f->size = vitastor_c_inode_get_size(j->watch);
        f->readonly = vitastor_c_inode_get_readonly(j->watch);
    }
}

/* Jobs that are processes fork after setup, which the library does not survive:
 * so it is asked in a child of its own. */
static void facts_by_child(struct thread_data *td, struct job *j, struct facts *f)
{
    int ends[2];
    f->error = EIO;
    if (pipe(ends) != 0) {
        f->error = errno;
        return;
    }
    pid_t pid = fork();
    if (pid == 0) {
        struct facts mine = { 0 };
        job_facts(td, j, &mine);
        job_disconnect(j);
        _exit(write(ends[1], &mine, sizeof(mine)) != sizeof(mine));
    }
    close(ends[1]);
    if (pid < 0)
        f->error = errno;
    else if (read(ends[0], f, sizeof(*f)) != sizeof(*f))
        f->error = EIO;
    close(ends[0]);
    if (pid > 0)
        waitpid(pid, NULL, 0);
}

/* ---- What fio calls */

static int engine_setup(struct thread_data *td)
{
    struct options *o = td->eo;
    if (!o->image && (!o->pool || !o->inode)) {
        log_err("vitastor: set image, or pool and inode\n");
        td_verror(td, EINVAL, "vitastor");
        return 1;
    }
    struct job *j = calloc(1, sizeof(*j));
    struct facts f = { 0 };
    if (!j || !(j->done = calloc(td->o.iodepth, sizeof(*j->done)))) {
        free(j);
        td_verror(td, ENOMEM, "vitastor");
        return 1;
    }
    j->mirror = -1;
    td->io_ops_data = j;
    if (td->o.use_thread)
        job_facts(td, j, &f);
    else
        facts_by_child(td, j, &f);
    if (!f.error && !f.size) {
        log_err("vitastor: set size: an inode that is given by its number has none\n");
        f.error = EINVAL;
    }
    if (!f.error && f.readonly && td_write(td)) {
        log_err("vitastor: image %s is read-only\n", o->image);
        f.error = EROFS;
    }
    if (f.error) {
        td_verror(td, f.error, "vitastor");
        return 1;
    }
    if (!td->files_index) {
        add_file(td, o->image ? o->image : "inode", 0, 0);
        td->o.nr_files = td->o.nr_files ? td->o.nr_files : 1;
        td->o.open_files++;
    }
    td->files[0]->real_file_size = f.size;
    fio_file_set_size_known(td->files[0]);
    return 0;
}

static int engine_init(struct thread_data *td)
{
    struct options *o = td->eo;
    struct job *j = td->io_ops_data;
    int e = j->client ? 0 : job_connect(td, j);
    if (!e && o->mirror_file) {
        j->mirror = open(o->mirror_file, O_CREAT | O_RDWR, 0666);
        e = j->mirror < 0 ? errno : 0;
    }
    if (e)
        td_verror(td, e, "vitastor");
    return e;
}

static void engine_cleanup(struct thread_data *td)
{
    struct job *j = td->io_ops_data;
    if (!j)
        return;
    job_disconnect(j);
    if (j->mirror >= 0)
        close(j->mirror);
    free(j->done);
    free(j);
    td->io_ops_data = NULL;
}

static void complete(struct io_u *u, long retval, unsigned long long want)
{
    struct job *j = u->engine_data;
    u->error = retval < 0 ? -retval : 0;
    u->resid = retval < 0 ? want : want - retval;
    j->done[j->done_count++] = u;
}

static void io_done(void *opaque, long retval)
{
    complete(opaque, retval, ((struct io_u *)opaque)->xfer_buflen);
}

static void read_done(void *opaque, long retval, uint64_t version)
{
    (void)version;
    io_done(opaque, retval);
}

/* the length of trims and syncs is not counted */
static void trim_done(void *opaque, long retval)
{
    complete(opaque, retval < 0 ? retval : 0, 0);
}

static void sync_done(void *opaque, long retval)
{
    struct job *j = ((struct io_u *)opaque)->engine_data;
    j->synced = --j->syncs == 0 && !j->changed && retval == 0;
    trim_done(opaque, retval);
}

static enum fio_q_status queue_write(struct job *j, struct io_u *u, uint64_t inode, struct iovec *iov)
{
    j->changed = 1;
    j->synced = 0;
    if (j->mirror >= 0 && pwrite(j->mirror, u->xfer_buf, u->xfer_buflen, u->offset) != (ssize_t)u->xfer_buflen) {
        u->error = errno ? errno : EIO;
        return FIO_Q_COMPLETED;
    }
    vitastor_c_write(j->client, inode, u->offset, u->xfer_buflen, 0, iov, 1, io_done, u);
    return FIO_Q_QUEUED;
}

/* A trim removes the objects that lie in the range as a whole. */
static enum fio_q_status queue_trim(struct job *j, struct io_u *u, uint64_t inode)
{
    uint64_t from = (u->offset + j->object - 1) / j->object * j->object;
    uint64_t to = (u->offset + u->xfer_buflen) / j->object * j->object;
    if (from >= to)
        return FIO_Q_COMPLETED;
    j->changed = 1;
    j->synced = 0;
    vitastor_c_delete(j->client, inode, from, to - from, 0, trim_done, u);
    return FIO_Q_QUEUED;
}

static enum fio_q_status engine_queue(struct thread_data *td, struct io_u *u)
{
    struct job *j = td->io_ops_data;
    struct options *o = td->eo;
    struct iovec iov = { u->xfer_buf, u->xfer_buflen };
    uint64_t inode = j->watch ? vitastor_c_inode_get_num(j->watch) : j->inode;
    fio_ro_check(td, u);
    u->engine_data = j;
    if (o->trace)
        log_info("vitastor: %s %llx+%llx\n", io_ddir_name(u->ddir), u->offset, (unsigned long long)u->xfer_buflen);
    switch (u->ddir) {
    case DDIR_READ:
        vitastor_c_read(j->client, inode, u->offset, u->xfer_buflen, &iov, 1, read_done, u);
        return FIO_Q_QUEUED;
    case DDIR_WRITE:
        if (j->watch && vitastor_c_inode_get_readonly(j->watch)) {
            u->error = EROFS;
            return FIO_Q_COMPLETED;
        }
        return queue_write(j, u, inode, &iov);
    case DDIR_TRIM:
        return queue_trim(j, u, inode);
    case DDIR_SYNC:
    case DDIR_DATASYNC:
        if (j->synced)
            return FIO_Q_COMPLETED;
        j->changed = 0;
        j->syncs++;
        vitastor_c_sync(j->client, sync_done, u);
        return FIO_Q_QUEUED;
    default:
        u->error = EINVAL;
        return FIO_Q_COMPLETED;
    }
}

static int engine_getevents(struct thread_data *td, unsigned int min, unsigned int max, const struct timespec *t)
{
    struct job *j = td->io_ops_data;
    (void)t;
    /* forget what was returned last time */
    j->done_count -= j->taken;
    memmove(j->done, j->done + j->taken, j->done_count * sizeof(*j->done));
    j->taken = 0;
    if (!min && j->epoll)
        vitastor_c_epoll_handle_events(j->client, 0);
    else if (!min)
        vitastor_c_uring_handle_events(j->client);
    while (j->done_count < (int)min)
        wait_events(j);
    j->taken = j->done_count < (int)max ? j->done_count : (int)max;
    return j->taken;
}

static struct io_u *engine_event(struct thread_data *td, int event)
{
    return ((struct job *)td->io_ops_data)->done[event];
}

static int engine_nothing(struct thread_data *td, struct fio_file *f)
{
    (void)td;
    (void)f;
    return 0;
}

/* fio finds it by this name */
struct ioengine_ops ioengine = {
    .name = "vitastor_cluster",
    .version = FIO_IOOPS_VERSION,
    .flags = FIO_MEMALIGN | FIO_DISKLESSIO | FIO_NOEXTEND,
    .setup = engine_setup,
    .init = engine_init,
    .queue = engine_queue,
    .getevents = engine_getevents,
    .event = engine_event,
    .cleanup = engine_cleanup,
    .open_file = engine_nothing,
    .close_file = engine_nothing,
    .invalidate = engine_nothing,
    .option_struct_size = sizeof(struct options),
    .options = options,
};
