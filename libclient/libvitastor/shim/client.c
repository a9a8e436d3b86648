/* Clients: making, destroying and driving them.
 *
 * SPDX-License-Identifier: MIT
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "shim.h"

#define OPTIONS_MAX 32 /* strings of the positional constructors */
#define ROUNDS_MAX 16  /* of callbacks that submit again, until the host has its turn */

static __thread char create_error[sizeof(((vcore *)NULL)->error)];

struct creation {
    vitastor_c *client;
    const char **options;
    int count;
    int result;
};

static void create_in_core(void *p)
{
    struct creation *n = p;
    n->result = core.create(&n->client->core, n->options, n->count);
}

static vitastor_c *create(int mode, const char **options, int count)
{
    vitastor_c *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->mode = mode;
    c->core.epoll_fd = c->core.wake_fd = -1;
    struct creation n = { c, options, count, 0 };
    int r = core_load(c->core.error, sizeof(c->core.error));
    if (!r)
        r = on_thread(create_in_core, &n);
    if (!r)
        r = n.result;
    if (r) {
        snprintf(create_error, sizeof(create_error), "%s", c->core.error[0] ? c->core.error : strerror(-r));
        fprintf(stderr, "vitastor: %s\n", create_error);
        free(c);
        errno = -r;
        return NULL;
    }
    return c;
}

static void add_string(const char **options, int *count, const char *key, const char *value)
{
    if (value && *count + 2 <= OPTIONS_MAX) {
        options[(*count)++] = key;
        options[(*count)++] = value;
    }
}

/* A number of a positional constructor as text. */
typedef struct number {
    char text[16];
} number;

static const char *number_text(number *n, int value)
{
    snprintf(n->text, sizeof(n->text), "%d", value);
    return n->text;
}

struct positional {
    const char *config_path, *etcd_host, *etcd_prefix, *rdma_device;
    int use_rdma, rdma_port_num, rdma_gid_index, rdma_mtu, log_level;
};

static vitastor_c *create_positional(int mode, const struct positional *p)
{
    const char *o[OPTIONS_MAX];
    number n[5];
    int count = 0;
    add_string(o, &count, "config_path", p->config_path);
    add_string(o, &count, "etcd_address", p->etcd_host);
    add_string(o, &count, "etcd_prefix", p->etcd_prefix);
    add_string(o, &count, "rdma_device", p->rdma_device);
    if (p->use_rdma >= 0)
        add_string(o, &count, "use_rdma", number_text(&n[0], p->use_rdma));
    if (p->rdma_port_num)
        add_string(o, &count, "rdma_port_num", number_text(&n[1], p->rdma_port_num));
    if (p->rdma_gid_index)
        add_string(o, &count, "rdma_gid_index", number_text(&n[2], p->rdma_gid_index));
    if (p->rdma_mtu)
        add_string(o, &count, "rdma_mtu", number_text(&n[3], p->rdma_mtu));
    if (p->log_level)
        add_string(o, &count, "log_level", number_text(&n[4], p->log_level));
    return create(mode, o, count);
}

static void fd_readable(void *opaque)
{
    client_run(opaque, VCORE_POLL);
}

/* Gives the one descriptor that there is to the host. */
static vitastor_c *give_fd(vitastor_c *c, QEMUSetFDHandler *set_fd, void *ctx)
{
    if (!c)
        return NULL;
    c->set_fd = set_fd;
    c->set_fd_ctx = ctx;
    c->polled = 1;
    set_fd(ctx, c->core.epoll_fd, 0, fd_readable, NULL, NULL, c);
    client_run(c, VCORE_POLL);
    return c;
}

PUBLIC vitastor_c *vitastor_c_create_qemu(QEMUSetFDHandler *aio_set_fd_handler, void *aio_context, const char *config_path,
    const char *etcd_host, const char *etcd_prefix, int use_rdma, const char *rdma_device, int rdma_port_num,
    int rdma_gid_index, int rdma_mtu, int log_level)
{
    struct positional p = { config_path, etcd_host, etcd_prefix, rdma_device, use_rdma, rdma_port_num, rdma_gid_index,
        rdma_mtu, log_level };
    return give_fd(create_positional(MODE_SET_FD, &p), aio_set_fd_handler, aio_context);
}

PUBLIC vitastor_c *vitastor_c_create_qemu_uring(QEMUSetFDHandler *aio_set_fd_handler, void *aio_context,
    const char *config_path, const char *etcd_host, const char *etcd_prefix, int use_rdma, const char *rdma_device,
    int rdma_port_num, int rdma_gid_index, int rdma_mtu, int log_level)
{
    struct positional p = { config_path, etcd_host, etcd_prefix, rdma_device, use_rdma, rdma_port_num, rdma_gid_index,
        rdma_mtu, log_level };
    return give_fd(create_positional(MODE_SET_FD | MODE_URING, &p), aio_set_fd_handler, aio_context);
}

PUBLIC vitastor_c *vitastor_c_create_uring(const char *config_path, const char *etcd_host, const char *etcd_prefix,
    int use_rdma, const char *rdma_device, int rdma_port_num, int rdma_gid_index, int rdma_mtu, int log_level)
{
    struct positional p = { config_path, etcd_host, etcd_prefix, rdma_device, use_rdma, rdma_port_num, rdma_gid_index,
        rdma_mtu, log_level };
    return create_positional(MODE_URING, &p);
}

/* Tells the caller our version, in a buffer that is an option (capi.md 2.2), and
 * hides that option from the core. */
static vitastor_c *create_json(int mode, const char **options, int len)
{
    const char **rest = calloc(len > 0 ? len : 1, sizeof(*rest));
    int count = 0;
    if (!rest)
        return NULL;
    for (int i = 0; i + 1 < len; i += 2) {
        if (!options[i] || !options[i + 1])
            continue;
        if (strcmp(options[i], "__version_check_buffer") != 0) {
            rest[count++] = options[i];
            rest[count++] = options[i + 1];
        } else if (mode & MODE_URING) {
            size_t size = strlen(options[i + 1]) + 1;
            if (size > strlen(LIBRARY_VERSION))
                strncpy((char *)options[i + 1], LIBRARY_VERSION, size);
        }
    }
    vitastor_c *c = create(mode, rest, count);
    int e = errno;
    free(rest);
    errno = e;
    return c;
}

PUBLIC vitastor_c *vitastor_c_create_uring_json(const char **options, int options_len)
{
    return create_json(MODE_URING, options, options_len);
}

PUBLIC vitastor_c *vitastor_c_create_epoll_json(const char **options, int options_len)
{
    return create_json(MODE_EPOLL, options, options_len);
}

PUBLIC void *vitastor_c_get_internal_client(vitastor_c *client)
{
    (void)client;
    return NULL;
}

PUBLIC const char *vitastor_c_get_error(vitastor_c *client)
{
    return client ? client->core.error : create_error;
}

static void destroy_in_core(void *p)
{
    core.destroy(((vitastor_c *)p)->core.slot);
}

static void destroy(vitastor_c *c)
{
    if (c->set_fd)
        c->set_fd(c->set_fd_ctx, c->core.epoll_fd, 0, NULL, NULL, NULL, NULL);
    /* without a thread the core keeps its memory, and so do we */
    if (!core_forked && on_thread(destroy_in_core, c) != 0)
        return;
    ops_free(c);
    free(c);
}

PUBLIC void vitastor_c_destroy(vitastor_c *client)
{
    if (!client || client->destroyed)
        return;
    if (client->busy)
        client->destroyed = 1;
    else
        destroy(client);
}

int client_run(vitastor_c *c, int mode)
{
    int ran = 0;
    if (c->busy)
        return 0;
    c->busy = 1;
    if (core_forked) {
        ops_fail(c, -EIO);
        ran = ops_deliver(c);
    }
    for (int round = 0; round < ROUNDS_MAX && !core_forked && !c->destroyed; round++) {
        c->kicked = 0;
        core.step(c->core.slot, mode);
        ran += ops_deliver(c);
        mode = VCORE_SUBMIT;
        if (!c->core.submit_head)
            break;
    }
    c->busy = 0;
    if (c->destroyed) {
        destroy(c);
    } else if (c->core.submit_head && c->polled && !core_forked) {
        c->kicked = eventfd_write(c->core.wake_fd, 1) == 0;
    }
    return ran;
}

PUBLIC int vitastor_c_is_ready(vitastor_c *client)
{
    return client->core.ready;
}

PUBLIC void vitastor_c_uring_wait_ready(vitastor_c *client)
{
    while (!client->core.ready && !client->core.error[0] && !client->busy && !core_forked)
        client_run(client, VCORE_WAIT);
}

PUBLIC int vitastor_c_uring_register_eventfd(vitastor_c *client)
{
    if (!(client->mode & MODE_URING))
        return -EINVAL;
    client->polled = 1;
    client_run(client, VCORE_POLL);
    return client->core.epoll_fd;
}

PUBLIC void vitastor_c_uring_handle_events(vitastor_c *client)
{
    client_run(client, VCORE_POLL);
}

PUBLIC void vitastor_c_uring_wait_events(vitastor_c *client)
{
    client_run(client, VCORE_WAIT);
}

PUBLIC int vitastor_c_uring_has_work(vitastor_c *client)
{
    return client->core.submit_head || client->core.done_head || client->core.more;
}

PUBLIC int vitastor_c_epoll_get_fd(vitastor_c *client)
{
    if (!(client->mode & MODE_EPOLL))
        return -1;
    client->polled = 1;
    return client->core.epoll_fd;
}

PUBLIC void vitastor_c_epoll_handle_events(vitastor_c *client, int timeout_ms)
{
    if (timeout_ms < 0) {
        client_run(client, VCORE_WAIT);
    } else if (client_run(client, VCORE_POLL) == 0 && timeout_ms > 0 && !client->busy && !core_forked) {
        struct pollfd p = { .fd = client->core.epoll_fd, .events = POLLIN };
        poll(&p, 1, timeout_ms);
        client_run(client, VCORE_POLL);
    }
}
