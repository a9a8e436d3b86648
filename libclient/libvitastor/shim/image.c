/* Images that are followed, and facts of pools: the core writes them inside of
 * its steps, so that these functions only read memory.
 *
 * SPDX-License-Identifier: MIT
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shim.h"

void image_free(vcore_image *image)
{
    free(image->name);
    free(image->meta);
    free(image);
}

PUBLIC void vitastor_c_watch_inode(vitastor_c *client, char *image, VitastorIOHandler *cb, void *opaque)
{
    vcore_image *handle = calloc(1, sizeof(*handle));
    if (!handle || !(handle->name = strdup(image))) {
        fprintf(stderr, "vitastor: out of memory\n");
        abort();
    }
    vcore_op *op = op_new(client, VCORE_WATCH, (void *)cb, opaque);
    op->image = handle;
    op_submit(client, op);
}

PUBLIC void vitastor_c_close_watch(vitastor_c *client, void *handle)
{
    if (!handle)
        return;
    vcore_op *op = op_new(client, VCORE_UNWATCH, NULL, NULL);
    op->image = handle;
    op_submit(client, op);
}

PUBLIC void vitastor_c_resize(vitastor_c *client, void *handle, uint64_t size, VitastorIOHandler *cb, void *opaque)
{
    vcore_op *op = op_new(client, VCORE_RESIZE, (void *)cb, opaque);
    op->image = handle;
    op->len = size;
    op_submit(client, op);
}

PUBLIC uint64_t vitastor_c_inode_get_size(void *handle)
{
    return ((vcore_image *)handle)->size;
}

PUBLIC uint64_t vitastor_c_inode_get_num(void *handle)
{
    return ((vcore_image *)handle)->num;
}

PUBLIC uint64_t vitastor_c_inode_get_parent_id(void *handle)
{
    return ((vcore_image *)handle)->parent;
}

PUBLIC uint64_t vitastor_c_inode_get_mod_revision(void *handle)
{
    return ((vcore_image *)handle)->mod_revision;
}

PUBLIC int vitastor_c_inode_get_readonly(void *handle)
{
    return ((vcore_image *)handle)->readonly;
}

PUBLIC char *vitastor_c_inode_get_meta(void *handle)
{
    vcore_image *image = handle;
    return image->meta ? strdup(image->meta) : NULL;
}

static const vcore_pool *find_pool(vitastor_c *c, uint64_t inode)
{
    uint64_t id = inode >> (64 - POOL_ID_BITS), low = 0, high = c->core.pool_count;
    while (low < high) {
        uint64_t mid = (low + high) / 2;
        const vcore_pool *p = &c->core.pools[mid];
        if (p->id == id)
            return p;
        if (p->id < id)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

PUBLIC uint32_t vitastor_c_inode_get_block_size(vitastor_c *client, uint64_t inode_num)
{
    const vcore_pool *p = find_pool(client, inode_num);
    return p ? p->object_bytes : 0;
}

PUBLIC uint32_t vitastor_c_inode_get_bitmap_granularity(vitastor_c *client, uint64_t inode_num)
{
    const vcore_pool *p = find_pool(client, inode_num);
    return p ? p->granule_bytes : 0;
}

PUBLIC int vitastor_c_inode_get_immediate_commit(vitastor_c *client, uint64_t inode_num)
{
    const vcore_pool *p = find_pool(client, inode_num);
    return p ? (int)p->commit : 0;
}
