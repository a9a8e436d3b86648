/* C interface to block images of a cluster: libvitastor_client.so.0.
 *
 * A vitastor_c is a client of one cluster. It has no threads that call anybody:
 * everything happens inside calls of this library, callbacks too, in the thread
 * of the caller. It has no locks either: calls for one client must not overlap,
 * but may come from different threads.
 *
 * Make a client in the process that uses it: after fork() the child cannot use
 * what the parent has made, nor make new ones if the parent had made one. It
 * gets errors then (-EIO, or NULL with errno ENOTSUP).
 *
 * Ways to run it:
 *   own loop      vitastor_c_create_uring_json; repeat vitastor_c_uring_wait_events
 *   foreign loop  the same; poll the descriptor of vitastor_c_uring_register_eventfd
 *                 for reading, then call vitastor_c_uring_handle_events
 *   epoll         vitastor_c_create_epoll_json, vitastor_c_epoll_get_fd and
 *                 vitastor_c_epoll_handle_events
 *   old QEMU      vitastor_c_create_qemu: descriptors are given to a function
 * See docs/usage/libvitastor.md and libclient/examples.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VITASTOR_C_H
#define VITASTOR_C_H

/* Level of this interface. */
#define VITASTOR_C_API_VERSION 4

#ifndef POOL_ID_BITS
#define POOL_ID_BITS 16
#endif

/* vitastor_c_inode_get_immediate_commit: which writes are durable at once. */
#define IMMEDIATE_NONE 0
#define IMMEDIATE_SMALL 1
#define IMMEDIATE_ALL 2

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct vitastor_c vitastor_c;

/* retval is the result (bytes, bits) or a negative errno. */
typedef void VitastorReadHandler(void *opaque, long retval, uint64_t version);
typedef void VitastorIOHandler(void *opaque, long retval);
/* bitmap is the callee's, to be given to free(); NULL on error. */
typedef void VitastorReadBitmapHandler(void *opaque, long retval, uint8_t *bitmap);

/* The host's function that watches descriptors; NULL handlers end that. */
typedef void IOHandler(void *opaque);
typedef void QEMUSetFDHandler(void *ctx, int fd, int is_external, IOHandler *fd_read, IOHandler *fd_write,
    void *poll_fn, void *opaque);

/* ---- Making a client. NULL, use_rdma < 0 and 0 mean "not specified".
 * They return at once, also if the cluster cannot be reached; NULL and errno if
 * the parameters are wrong. */

vitastor_c *vitastor_c_create_qemu(QEMUSetFDHandler *aio_set_fd_handler, void *aio_context, const char *config_path,
    const char *etcd_host, const char *etcd_prefix, int use_rdma, const char *rdma_device, int rdma_port_num,
    int rdma_gid_index, int rdma_mtu, int log_level);
vitastor_c *vitastor_c_create_qemu_uring(QEMUSetFDHandler *aio_set_fd_handler, void *aio_context, const char *config_path,
    const char *etcd_host, const char *etcd_prefix, int use_rdma, const char *rdma_device, int rdma_port_num,
    int rdma_gid_index, int rdma_mtu, int log_level);
vitastor_c *vitastor_c_create_uring(const char *config_path, const char *etcd_host, const char *etcd_prefix, int use_rdma,
    const char *rdma_device, int rdma_port_num, int rdma_gid_index, int rdma_mtu, int log_level);

/* options: key, value, key, value...; options_len counts strings. The keys are
 * the parameters of clients in docs/config. */
vitastor_c *vitastor_c_create_uring_json(const char **options, int options_len);
vitastor_c *vitastor_c_create_epoll_json(const char **options, int options_len);

/* Always NULL: there is no C++ client behind this library. */
void *vitastor_c_get_internal_client(vitastor_c *client);

/* Frees the client. What was written and not synced is lost; callbacks of
 * operations that run are not called. */
void vitastor_c_destroy(vitastor_c *client);

/* ---- Readiness and events */

int vitastor_c_is_ready(vitastor_c *client);
/* cb gets 0, or a negative errno if etcd could not be read (ours). */
void vitastor_c_on_ready(vitastor_c *client, VitastorIOHandler *cb, void *opaque);
/* Returns also if etcd could not be read: ask vitastor_c_is_ready. */
void vitastor_c_uring_wait_ready(vitastor_c *client);

/* A descriptor that is readable when there is something to do. -EINVAL for
 * clients of vitastor_c_create_qemu and vitastor_c_create_epoll_json. */
int vitastor_c_uring_register_eventfd(vitastor_c *client);
void vitastor_c_uring_handle_events(vitastor_c *client);
void vitastor_c_uring_wait_events(vitastor_c *client);
int vitastor_c_uring_has_work(vitastor_c *client);

int vitastor_c_epoll_get_fd(vitastor_c *client);
/* timeout_ms < 0: wait until there is an event */
void vitastor_c_epoll_handle_events(vitastor_c *client, int timeout_ms);

/* ---- Operations. inode has the pool in its highest POOL_ID_BITS bits. offset
 * and len are bytes, multiples of the granularity. iov is copied; the buffers
 * belong to the library until the callback. */

/* retval = len; version = that of the object if the range is inside of one */
void vitastor_c_read(vitastor_c *client, uint64_t inode, uint64_t offset, uint64_t len, struct iovec *iov, int iovcnt,
    VitastorReadHandler *cb, void *opaque);
/* check_version: 0, or the version that the object gets (its present one + 1);
 * retval = -EINTR if it is another one, or nobody knows. */
void vitastor_c_write(vitastor_c *client, uint64_t inode, uint64_t offset, uint64_t len, uint64_t check_version,
    struct iovec *iov, int iovcnt, VitastorIOHandler *cb, void *opaque);
/* Removes all objects that the range touches. */
void vitastor_c_delete(vitastor_c *client, uint64_t inode, uint64_t offset, uint64_t len, uint64_t check_version,
    VitastorIOHandler *cb, void *opaque);
/* retval = number of bits, the least significant first */
void vitastor_c_read_bitmap(vitastor_c *client, uint64_t inode, uint64_t offset, uint64_t len, int with_parents,
    VitastorReadBitmapHandler *cb, void *opaque);
/* Makes durable what was acknowledged before. */
void vitastor_c_sync(vitastor_c *client, VitastorIOHandler *cb, void *opaque);

/* ---- Images. The retval of cb is the handle. A handle follows the name: it may
 * mean another inode after a snapshot, and inode 0 while there is no image. */

void vitastor_c_watch_inode(vitastor_c *client, char *image, VitastorIOHandler *cb, void *opaque);
void vitastor_c_close_watch(vitastor_c *client, void *handle);
uint64_t vitastor_c_inode_get_size(void *handle);
uint64_t vitastor_c_inode_get_num(void *handle);
uint64_t vitastor_c_inode_get_parent_id(void *handle);
uint64_t vitastor_c_inode_get_mod_revision(void *handle);
int vitastor_c_inode_get_readonly(void *handle);
/* JSON text to be given to free(), or NULL */
char *vitastor_c_inode_get_meta(void *handle);
uint32_t vitastor_c_inode_get_block_size(vitastor_c *client, uint64_t inode_num);
uint32_t vitastor_c_inode_get_bitmap_granularity(vitastor_c *client, uint64_t inode_num);
int vitastor_c_inode_get_immediate_commit(vitastor_c *client, uint64_t inode_num);

/* ---- Ours: not in other implementations, so look them up with dlsym or as weak
 * symbols if you want to run with any. */

/* Why the cluster cannot be used, or "". NULL = why this thread's last
 * vitastor_c_create* has failed. */
const char *vitastor_c_get_error(vitastor_c *client);
/* Writes a new size of an image to etcd. -EAGAIN: somebody else was changing the image. */
void vitastor_c_resize(vitastor_c *client, void *handle, uint64_t size, VitastorIOHandler *cb, void *opaque);
/* Makes whole objects read as zeroes by removing them. offset and len are multiples of the block size. -ENOTSUP: the image has
 * a parent; -EAGAIN: they were removed, but may come back, because OSDs that have them are down: write zeroes instead. */
void vitastor_c_zero_objects(vitastor_c *client, uint64_t inode, uint64_t offset, uint64_t len, VitastorIOHandler *cb,
    void *opaque);
/* retval = bytes that one layer occupies, by the statistics of the cluster, which are some seconds old */
void vitastor_c_get_used(vitastor_c *client, uint64_t inode, VitastorIOHandler *cb, void *opaque);

#ifdef __cplusplus
}
#endif

#endif
