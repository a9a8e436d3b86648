/* What differs between versions of QEMU. VITASTOR_QEMU is the version that this
 * is compiled for, as major * 100 + minor; the Makefile takes it from QEMU's
 * file VERSION. Functions that only got other names are in the table of
 * vitastor.c.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#ifndef BLOCK_VITASTOR_QEMU_H
#define BLOCK_VITASTOR_QEMU_H

#ifndef VITASTOR_QEMU
#error "define VITASTOR_QEMU: 702 for QEMU 7.2"
#endif

#if VITASTOR_QEMU < 702
#error "QEMU 7.2 is the oldest that is supported"
#endif

#include "block/block.h"
#include "block/block_int.h"
#include "qapi/error.h"
#include "qemu/cutils.h"

#if VITASTOR_QEMU >= 1000
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qstring.h"
#else
#include "qapi/qmp/qdict.h"
#include "qapi/qmp/qjson.h"
#include "qapi/qmp/qstring.h"
#endif

/* Sizes and statistics are asked for in coroutines. */
#define VITASTOR_CO_FACTS (VITASTOR_QEMU >= 800)

/* Protocols are opened by bdrv_open; before, by bdrv_file_open. */
#define VITASTOR_ONE_OPEN (VITASTOR_QEMU >= 901)

/* bdrv_co_block_status: what the caller wants to know. */
#if VITASTOR_QEMU >= 1001
typedef unsigned int VitastorStatusMode;
#else
typedef bool VitastorStatusMode;
#endif

static inline void vitastor_aio_set_fd(AioContext *ctx, int fd, IOHandler *fd_read, IOHandler *fd_write, void *opaque)
{
#if VITASTOR_QEMU >= 801
    aio_set_fd_handler(ctx, fd, fd_read, fd_write, NULL, NULL, opaque);
#else
    aio_set_fd_handler(ctx, fd, false, fd_read, fd_write, NULL, NULL, opaque);
#endif
}

static inline bool vitastor_parse_number(const char *text, uint64_t *n)
{
#if VITASTOR_QEMU >= 801
    return parse_uint_full(text, 0, n) >= 0;
#else
    unsigned long long value = 0;
    int r = parse_uint_full(text, &value, 0);
    *n = value;
    return r >= 0;
#endif
}

/* Of bdrv_open: in the main thread, outside of coroutines. */
static inline int vitastor_force_read_only(BlockDriverState *bs, const char *why, Error **errp)
{
#if VITASTOR_QEMU >= 802
    bdrv_graph_rdlock_main_loop();
#endif
    int r = bdrv_apply_auto_read_only(bs, why, errp);
#if VITASTOR_QEMU >= 802
    bdrv_graph_rdunlock_main_loop();
#endif
    return r;
}

#endif
