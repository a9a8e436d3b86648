/* What the C shim (libvitastor_client.so) and the Go core (libvitastor_core.so)
 * share. The core is loaded at the first vitastor_c_create*, by the name
 * VCORE_FILE beside the shim.
 *
 *   caller ─▶ shim: vcore_op appended to submit_* ─▶ vcore_step (Go): takes them
 *   caller ◀─ shim: callback ◀─ done_* ◀───────────── appends what is completed
 *
 * Only vcore_step runs Go code for operations, so that submission functions may
 * be called on any stack, such as that of a coroutine. All memory in here is
 * C's. Nothing is locked: the caller serializes (capi.md 2.4).
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VITASTOR_CORE_H
#define VITASTOR_CORE_H

#include <stdint.h>
#include <sys/uio.h>

#define VCORE_ABI 1
#define VCORE_FILE "libvitastor_core.so.0"

enum vcore_kind {
    VCORE_READ,
    VCORE_WRITE,
    VCORE_SYNC,
    VCORE_DELETE,
    VCORE_ZERO,         /* deletes whole objects that read as zeroes then, surely and for ever */
    VCORE_BITMAP,       /* of one layer */
    VCORE_CHAIN_BITMAP, /* with parents */
    VCORE_READY,        /* completed when the cluster is known, or cannot be */
    VCORE_WATCH,        /* the same; fills in image */
    VCORE_UNWATCH,      /* afterwards image may be freed */
    VCORE_RESIZE,       /* of the image: its size in etcd becomes len */
    VCORE_USED,         /* retval = bytes that the image occupies, statistics of the cluster */
};

enum vcore_step_mode {
    VCORE_POLL,   /* submit, serve events, do not wait */
    VCORE_WAIT,   /* the same, and wait for an event if nothing is completed */
    VCORE_SUBMIT, /* do not look at descriptors */
};

/* Flags of an operation. */
#define VCORE_WAIT_UP_TIMEOUT 1
#define VCORE_IGNORE_READONLY 2

#define VCORE_INLINE_IOV 4

/* An image that is followed by its name. The core updates it inside vcore_step. */
typedef struct vcore_image {
    uint64_t num; /* inode with pool, 0 = there is no such image (now) */
    uint64_t size;
    uint64_t parent;
    uint64_t mod_revision;
    char *meta; /* malloc'ed JSON text or NULL */
    int readonly;
    char *name;
    uint64_t token; /* the core's */
} vcore_image;

typedef struct vcore_op {
    struct vcore_op *next;
    uint32_t kind;
    uint32_t flags;
    uint64_t inode, offset, len;
    uint64_t version; /* condition of WRITE and DELETE; version of what was read */
    struct iovec *iov;
    int64_t iovcnt;
    int64_t retval;  /* result, or -errno */
    uint8_t *bitmap; /* malloc'ed by the core */
    vcore_image *image;
    void *cb, *opaque; /* the shim's */
    struct iovec inline_iov[VCORE_INLINE_IOV];
} vcore_op;

typedef struct vcore_pool {
    uint64_t id;
    uint32_t object_bytes, granule_bytes, commit;
} vcore_pool;

typedef struct vcore {
    vcore_op *submit_head, *submit_tail; /* filled by the shim */
    vcore_op *done_head, *done_tail;     /* filled by the core */
    vcore_pool *pools;                   /* ascending by id */
    uint64_t pool_count;
    int32_t slot; /* names the client in the core */
    int32_t epoll_fd, wake_fd;
    int32_t ready; /* the cluster is known */
    int32_t more;  /* the core has more to do at once */
    int32_t error_code; /* errno that error is about */
    char error[512];    /* why creation failed, or why the cluster cannot be known */
} vcore;

/* Exported by the core. */
typedef int vcore_abi_fn(void);
/* options: key, value, key, value... Returns 0 or -errno with error set. */
typedef int vcore_create_fn(vcore *c, const char **options, int count);
typedef void vcore_step_fn(int slot, int mode);
typedef void vcore_destroy_fn(int slot);

#endif
