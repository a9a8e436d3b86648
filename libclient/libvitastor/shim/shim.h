/* Inside of libvitastor_client.so.0.
 *
 *   loader.c  finds and loads the Go core, notices forks
 *   client.c  making, destroying and driving clients
 *   io.c      operations: queues and callbacks
 *   image.c   images and pools
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VITASTOR_SHIM_H
#define VITASTOR_SHIM_H

#include "../../include/vitastor_c.h"
#include "../core.h"

#define PUBLIC __attribute__((visibility("default")))

/* The version of the reference whose interface this is. */
#define LIBRARY_VERSION "3.0.8"

enum client_mode {
    MODE_URING = 1, /* the uring family works */
    MODE_EPOLL = 2, /* the epoll family works */
    MODE_SET_FD = 4, /* the host was given the descriptor */
};

struct vitastor_c {
    vcore core;
    int mode;
    int polled;     /* the caller waits for epoll_fd itself, so it must become readable for new operations */
    int kicked;     /* and it is */
    int busy;       /* inside of run: nested calls do nothing */
    int destroyed;  /* by a callback: the end of run does it */
    vcore_op *free_ops;
    QEMUSetFDHandler *set_fd;
    void *set_fd_ctx;
};

/* loader.c */

typedef struct core_functions {
    vcore_create_fn *create;
    vcore_step_fn *step;
    vcore_destroy_fn *destroy;
} core_functions;

extern core_functions core;
/* This process is a child of the one that loaded the core, which has no threads here. */
extern int core_forked;

/* Loads the core once. Returns 0, or -errno with a message in text. */
int core_load(char *text, size_t size);
/* Runs f on a thread of its own: on stacks of coroutines Go is slow. Returns -errno if there is no thread. */
int on_thread(void (*f)(void *), void *arg);

/* client.c */

/* Serves events and runs callbacks; returns how many. */
int client_run(vitastor_c *c, int step_mode);

/* io.c */

vcore_op *op_new(vitastor_c *c, int kind, void *cb, void *opaque);
void op_submit(vitastor_c *c, vcore_op *op);
/* Runs the callbacks of completed operations. */
int ops_deliver(vitastor_c *c);
/* Completes everything that waits to be submitted with an error. */
void ops_fail(vitastor_c *c, long err);
void ops_free(vitastor_c *c);

/* image.c */

void image_free(vcore_image *image);

#endif
