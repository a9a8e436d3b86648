/* How clients live: constructors, event loops, threads, forks, the end.
 *   life etcd image case
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "capi.h"

#define G 4096

static const char *etcd, *name;

/* reads and writes something by the waiting functions */
static void use(vitastor_c *c, uint64_t offset)
{
    char buf[G], back[G];
    void *image = open_image(c, name);
    uint64_t inode = vitastor_c_inode_get_num(image);
    MUST(inode, "no image %s", name);
    memset(buf, 'x' + offset, sizeof(buf));
    MUST(do_write(c, inode, offset, G, buf, 0) == G, "write");
    MUST(do_read(c, inode, offset, G, back, NULL) == G && !memcmp(buf, back, G), "read");
    vitastor_c_close_watch(c, image);
}

static void case_version(void)
{
    char buffer[32], little[6], other[32];
    memset(buffer, ' ', sizeof(buffer));
    buffer[31] = 0;
    strcpy(little, "    ");
    memset(other, ' ', sizeof(other));
    other[31] = 0;
    const char *o[] = { "etcd_address", etcd, "__version_check_buffer", buffer, NULL, "x", "__version_check_buffer", little, "odd" };
    vitastor_c *c = vitastor_c_create_uring_json(o, 9);
    MUST(c, "%s", vitastor_c_get_error(NULL));
    MUST(!strcmp(buffer, "3.0.8") && buffer[30] == 0, "%s", buffer);
    MUST(!strcmp(little, "    "), "%s", little); /* 5 bytes with the end: too little */
    use(c, 0);
    vitastor_c_destroy(c);
    o[3] = other;
    c = vitastor_c_create_epoll_json(o, 4);
    MUST(c && other[0] == ' ', "epoll clients have no version");
    vitastor_c_destroy(c);
}

static void case_epoll(void)
{
    const char *o[] = { "etcd_address", etcd };
    vitastor_c *c = vitastor_c_create_epoll_json(o, 2);
    struct result watch = { 0 }, sync = { 0 };
    MUST(vitastor_c_uring_register_eventfd(c) == -EINVAL, "an eventfd without a ring");
    struct pollfd p = { .fd = vitastor_c_epoll_get_fd(c), .events = POLLIN };
    MUST(p.fd >= 0, "no descriptor");
    vitastor_c_watch_inode(c, (char *)name, io_done, &watch);
    while (!watch.done) {
        MUST(poll(&p, 1, 10000) == 1, "nothing happens");
        vitastor_c_epoll_handle_events(c, 0);
    }
    vitastor_c_sync(c, io_done, &sync);
    for (int i = 0; !sync.done && i < 100; i++)
        vitastor_c_epoll_handle_events(c, 100);
    MUST(sync.done && sync.value == 0, "%ld", sync.value);
    vitastor_c_epoll_handle_events(c, 1); /* ends although nothing happens */
    vitastor_c_close_watch(c, (void *)watch.value);
    vitastor_c_destroy(c);
}

/* a host that watches descriptors for the library */
static struct {
    int fd;
    IOHandler *read;
    void *opaque;
    int given;
} host = { .fd = -1 };

static void set_fd(void *ctx, int fd, int is_external, IOHandler *fd_read, IOHandler *fd_write, void *poll_fn, void *opaque)
{
    MUST(ctx == &host && !is_external && !fd_write && !poll_fn, "arguments");
    host.fd = fd_read ? fd : -1;
    host.read = fd_read;
    host.opaque = opaque;
    host.given++;
}

static void case_setfd(void)
{
    vitastor_c *c = vitastor_c_create_qemu(set_fd, &host, NULL, etcd, NULL, -1, NULL, 0, 0, 0, 0);
    struct result watch = { 0 };
    MUST(c && host.given && host.read, "no descriptor was given");
    MUST(vitastor_c_epoll_get_fd(c) == -1 && vitastor_c_uring_register_eventfd(c) == -EINVAL, "it has descriptors");
    vitastor_c_watch_inode(c, (char *)name, io_done, &watch);
    while (!watch.done) {
        struct pollfd p = { .fd = host.fd, .events = POLLIN };
        MUST(poll(&p, 1, 10000) == 1, "nothing happens");
        host.read(host.opaque);
    }
    vitastor_c_close_watch(c, (void *)watch.value);
    vitastor_c_destroy(c);
    MUST(!host.read, "the descriptor is still watched");
    c = vitastor_c_create_qemu_uring(set_fd, &host, NULL, etcd, "/vitastor", 0, NULL, 1, 1, 4096, 0);
    MUST(c && vitastor_c_uring_register_eventfd(c) >= 0, "ring");
    use(c, G);
    vitastor_c_destroy(c);
    c = vitastor_c_create_uring(NULL, etcd, NULL, -1, NULL, 0, 0, 0, 0);
    use(c, G);
    vitastor_c_destroy(c);
}

/* callbacks that call us, submit and destroy */
static struct {
    vitastor_c *c;
    uint64_t inode;
    int left, inside;
    char buf[G];
} nest;

static void nested(void *opaque, long retval)
{
    MUST(retval == G && !nest.inside, "%ld, inside %d", retval, nest.inside);
    nest.inside = 1;
    struct iovec iov = { nest.buf, G };
    if (--nest.left > 0)
        vitastor_c_write(nest.c, nest.inode, G * (nest.left % 8), G, 0, &iov, 1, nested, opaque);
    vitastor_c_uring_handle_events(nest.c); /* returns at once */
    vitastor_c_uring_wait_events(nest.c);
    nest.inside = 0;
    if (!nest.left)
        vitastor_c_destroy(nest.c);
}

static void case_nested(void)
{
    nest.c = connect_etcd(etcd);
    nest.inode = vitastor_c_inode_get_num(open_image(nest.c, name));
    nest.left = 200;
    struct iovec iov = { nest.buf, G };
    vitastor_c_write(nest.c, nest.inode, 0, G, 0, &iov, 1, nested, NULL);
    MUST(vitastor_c_uring_has_work(nest.c), "nothing to do");
    while (nest.left)
        vitastor_c_uring_wait_events(nest.c);
}

/* an operation makes the descriptor readable, and an idle client does not */
static void case_eventfd(void)
{
    vitastor_c *c = connect_etcd(etcd);
    struct pollfd p = { .fd = vitastor_c_uring_register_eventfd(c), .events = POLLIN };
    MUST(p.fd >= 0 && vitastor_c_uring_register_eventfd(c) == p.fd, "%d", p.fd);
    MUST(fcntl(p.fd, F_GETFD) & FD_CLOEXEC, "flags");
    use(c, 0);
    int idle = 0;
    for (int i = 0; i < 1000 && !idle; i++) {
        vitastor_c_uring_handle_events(c);
        idle = poll(&p, 1, 5) == 0;
    }
    MUST(idle, "never idle");
    struct result r = { 0 };
    vitastor_c_sync(c, io_done, &r);
    while (!r.done) {
        MUST(poll(&p, 1, 10000) == 1, "nothing happens");
        vitastor_c_uring_handle_events(c);
    }
    vitastor_c_destroy(c);
}

/* operations in flight when the client is destroyed */
static void case_inflight(void)
{
    static char buf[64][131072];
    for (int i = 0; i < 20; i++) {
        vitastor_c *c = connect_etcd(etcd);
        void *image = open_image(c, name);
        uint64_t inode = vitastor_c_inode_get_num(image);
        struct result r[64] = { 0 };
        for (int n = 0; n < 64; n++) {
            struct iovec iov = { buf[n], sizeof(buf[n]) };
            if (n % 2)
                vitastor_c_write(c, inode, n * sizeof(buf[n]), sizeof(buf[n]), 0, &iov, 1, io_done, &r[n]);
            else
                vitastor_c_read(c, inode, n * sizeof(buf[n]), sizeof(buf[n]), &iov, 1, read_done, &r[n]);
        }
        for (int n = 0; n < i; n++)
            vitastor_c_uring_handle_events(c);
        vitastor_c_close_watch(c, image);
        vitastor_c_destroy(c);
        memset(buf, i, sizeof(buf)); /* ours again */
    }
    vitastor_c *c = connect_etcd(etcd); /* before it is ready */
    struct result r[2] = { 0 };
    vitastor_c_sync(c, io_done, &r[0]);
    vitastor_c_watch_inode(c, (char *)name, io_done, &r[1]);
    vitastor_c_uring_handle_events(c);
    int done = r[0].done + r[1].done; /* a fast cluster may have answered already */
    if (r[1].done)
        vitastor_c_close_watch(c, (void *)r[1].value);
    vitastor_c_destroy(c);
    MUST(r[0].done + r[1].done == done, "callbacks of a destroyed client");
}

static int child_code(pid_t pid)
{
    int status;
    MUST(waitpid(pid, &status, 0) == pid && WIFEXITED(status), "child ended by a signal");
    return WEXITSTATUS(status);
}

static void case_fork(void)
{
    for (int i = 0; i < 2; i++) { /* before anybody has used the library */
        pid_t pid = fork();
        if (!pid) {
            vitastor_c *c = connect_etcd(etcd);
            use(c, G * i);
            vitastor_c_destroy(c);
            exit(0);
        }
        MUST(child_code(pid) == 0, "a child cannot use the library");
    }
    vitastor_c *c = connect_etcd(etcd);
    void *image = open_image(c, name);
    pid_t pid = fork();
    if (!pid) {
        char buf[G] = { 0 };
        MUST(do_write(c, vitastor_c_inode_get_num(image), 0, G, buf, 0) == -EIO, "a write in the child");
        MUST(do_sync(c) == -EIO, "sync in the child");
        vitastor_c_uring_wait_events(c);
        vitastor_c_uring_handle_events(c);
        const char *o[] = { "etcd_address", etcd };
        errno = 0;
        MUST(!vitastor_c_create_uring_json(o, 2) && errno == ENOTSUP, "a client in the child");
        vitastor_c_close_watch(c, image);
        vitastor_c_destroy(c);
        exit(0);
    }
    MUST(child_code(pid) == 0, "child");
    use(c, 0); /* the parent goes on */
    vitastor_c_destroy(c);
}

/* submits on a stack of a coroutine, as QEMU's drivers do */
static ucontext_t mainly, coroutine;
static vitastor_c *co_client;
static uint64_t co_inode;
static struct result co_result;
static char co_buf[G];

static void co_main(void)
{
    struct iovec iov = { co_buf, G };
    vitastor_c_write(co_client, co_inode, 0, G, 0, &iov, 1, io_done, &co_result);
    swapcontext(&coroutine, &mainly);
}

static void case_coroutine(void)
{
    char *stack = malloc(1 << 20);
    co_client = connect_etcd(etcd);
    co_inode = vitastor_c_inode_get_num(open_image(co_client, name));
    for (int i = 0; i < 100; i++) {
        getcontext(&coroutine);
        coroutine.uc_stack.ss_sp = stack;
        coroutine.uc_stack.ss_size = 1 << 20;
        coroutine.uc_link = &mainly;
        makecontext(&coroutine, co_main, 0);
        co_result.done = 0;
        swapcontext(&mainly, &coroutine);
        MUST(finish(co_client, &co_result) == G, "%ld", co_result.value);
    }
    vitastor_c_destroy(co_client);
    free(stack);
}

static void *thread_main(void *arg)
{
    vitastor_c *c = connect_etcd(etcd);
    for (int i = 0; i < 50; i++)
        use(c, G * (uint64_t)(size_t)arg);
    vitastor_c_destroy(c);
    return NULL;
}

static void *step_main(void *arg)
{
    use(arg, 0);
    return NULL;
}

static void case_threads(void)
{
    pthread_t t[8];
    for (size_t i = 0; i < 8; i++)
        MUST(!pthread_create(&t[i], NULL, thread_main, (void *)i), "thread");
    for (size_t i = 0; i < 8; i++)
        pthread_join(t[i], NULL);
    vitastor_c *c = connect_etcd(etcd); /* one client in one thread after the other */
    for (size_t i = 0; i < 20; i++) {
        MUST(!pthread_create(&t[0], NULL, step_main, c), "thread");
        pthread_join(t[0], NULL);
    }
    vitastor_c_destroy(c);
}

static void case_noetcd(void)
{
    const char *o[] = { "etcd_address", "127.0.0.1:1", "max_etcd_attempts", "1", "etcd_slow_timeout", "100", "etcd_quick_timeout", "100" };
    struct result ready = { 0 };
    vitastor_c *c = vitastor_c_create_uring_json(o, 8);
    MUST(c, "%s", vitastor_c_get_error(NULL));
    vitastor_c_on_ready(c, io_done, &ready);
    vitastor_c_uring_wait_ready(c);
    MUST(!vitastor_c_is_ready(c) && strstr(vitastor_c_get_error(c), "etcd"), "%s", vitastor_c_get_error(c));
    MUST(finish(c, &ready) < 0, "%ld", ready.value);
    void *image = open_image(c, name); /* a handle without a number */
    MUST(vitastor_c_inode_get_num(image) == 0, "a number");
    MUST(do_sync(c) < 0, "sync");
    vitastor_c_close_watch(c, image);
    vitastor_c_destroy(c);
    const char *none[] = { "config_path", "/nonexistent" };
    errno = 0;
    MUST(!vitastor_c_create_uring_json(none, 2) && errno == EINVAL && strstr(vitastor_c_get_error(NULL), "etcd_address"),
        "%s", vitastor_c_get_error(NULL));
    const char *bad[] = { "etcd_address", "ftp://x" };
    MUST(!vitastor_c_create_uring_json(bad, 2) && errno == EINVAL, "%s", vitastor_c_get_error(NULL));
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } cases[] = { { "version", case_version }, { "epoll", case_epoll }, { "setfd", case_setfd }, { "nested", case_nested },
        { "eventfd", case_eventfd }, { "inflight", case_inflight }, { "fork", case_fork }, { "coroutine", case_coroutine },
        { "threads", case_threads }, { "noetcd", case_noetcd } };
    MUST(argc == 4, "arguments");
    etcd = argv[1];
    name = argv[2];
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (!strcmp(cases[i].name, argv[3])) {
            cases[i].run();
            return 0;
        }
    MUST(0, "no case %s", argv[3]);
}
