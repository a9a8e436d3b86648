/* Loads the Go core when the first client is made. Not earlier: a Go runtime does
 * not survive fork(), and many programs fork after they were linked to us but
 * before they use a disk (qemu-nbd --fork, qemu -daemonize, fio).
 *
 * SPDX-License-Identifier: MIT
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

core_functions core;
int core_forked;

static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;
static int loaded;

static void forked_child(void)
{
    core_forked = 1;
}

/* The core lies beside this library, wherever links to it are. */
static void *open_core(char *text, size_t size)
{
    Dl_info self;
    char dir[PATH_MAX];
    if (dladdr((void *)core_load, &self) && self.dli_fname && realpath(self.dli_fname, dir)) {
        char *slash = strrchr(dir, '/');
        if (slash && (size_t)(slash + 1 - dir) + sizeof(VCORE_FILE) <= sizeof(dir)) {
            strcpy(slash + 1, VCORE_FILE);
            void *handle = dlopen(dir, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
            if (handle)
                return handle;
        }
    }
    snprintf(text, size, "%s", dlerror());
    return dlopen(VCORE_FILE, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
}

static int load_locked(char *text, size_t size)
{
    void *handle = open_core(text, size);
    if (!handle)
        return -ELIBACC;
    vcore_abi_fn *abi = (vcore_abi_fn *)dlsym(handle, "vcore_abi");
    core.create = (vcore_create_fn *)dlsym(handle, "vcore_create");
    core.step = (vcore_step_fn *)dlsym(handle, "vcore_step");
    core.destroy = (vcore_destroy_fn *)dlsym(handle, "vcore_destroy");
    if (!abi || !core.create || !core.step || !core.destroy || abi() != VCORE_ABI) {
        snprintf(text, size, "%s belongs to another version of libvitastor_client: install both from the same build", VCORE_FILE);
        return -ELIBBAD;
    }
    return -pthread_atfork(NULL, NULL, forked_child);
}

int core_load(char *text, size_t size)
{
    if (core_forked) {
        snprintf(text, size, "this process is a fork of one that has used the library, which does not work: "
            "make clients after fork(), or call exec()");
        return -ENOTSUP;
    }
    int r = 0;
    pthread_mutex_lock(&loading);
    if (!loaded) {
        r = load_locked(text, size);
        loaded = r == 0;
    }
    pthread_mutex_unlock(&loading);
    return r;
}

struct call {
    void (*f)(void *);
    void *arg;
};

static void *call_main(void *p)
{
    struct call *c = p;
    c->f(c->arg);
    return NULL;
}

int on_thread(void (*f)(void *), void *arg)
{
    struct call c = { f, arg };
    pthread_t t;
    sigset_t all, old;
    /* signals of the host belong to its own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int r = pthread_create(&t, NULL, call_main, &c);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (r)
        return -r;
    pthread_join(t, NULL);
    return 0;
}
