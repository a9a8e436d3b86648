/* What operations do (capi.md 2.4, 2.5).
 *   io etcd image              an empty image of 16 MiB, objects of 128 KiB
 *   io etcd image readonly     an image that is read-only
 *   io etcd image facts        prints what is known of it
 *   io etcd image follow       prints the inode whenever it changes, until it is 0
 * SPDX-License-Identifier: MIT
 */
#include "capi.h"

#define BLOCK 131072
#define G 4096

static void data(vitastor_c *c, uint64_t inode)
{
    static char buf[4 * BLOCK], back[4 * BLOCK];
    struct iovec iov[9];
    struct result w = { 0 }, r = { 0 };
    for (size_t i = 0; i < sizeof(buf); i++)
        buf[i] = i * 7 + i / 4096;
    /* over objects, from an odd vector */
    size_t at = 0;
    for (int i = 0; i < 9; i++) {
        iov[i].iov_base = buf + at;
        iov[i].iov_len = i < 8 ? 1000ul * (i + 1) + 1 : 3 * BLOCK - at;
        at += iov[i].iov_len;
    }
    vitastor_c_write(c, inode, BLOCK - G, 3 * BLOCK, 0, iov, 9, io_done, &w);
    memset(iov, 0, sizeof(iov)); /* the vector was copied */
    MUST(finish(c, &w) == 3 * BLOCK, "%ld", w.value);
    struct iovec two[2] = { { back, 5 }, { back + 5, sizeof(back) - 5 } }; /* longer than needed */
    vitastor_c_read(c, inode, BLOCK - G, 3 * BLOCK, two, 2, read_done, &r);
    MUST(finish(c, &r) == 3 * BLOCK && !memcmp(buf, back, 3 * BLOCK), "%ld", r.value);
    MUST(do_read(c, inode, 8 * BLOCK, G, back, NULL) == G && !back[0] && !memcmp(back, back + 1, G - 1), "not zero");
    MUST(do_sync(c) == 0, "sync");
}

static void conditions(vitastor_c *c, uint64_t inode)
{
    static char buf[2 * BLOCK], back[G];
    uint64_t v1 = 0, v2 = 0;
    memset(buf, 'a', sizeof(buf));
    MUST(do_read(c, inode, 10 * BLOCK, 0, back, &v1) == 0 && v1 == 0, "version %lu", v1);
    MUST(do_write(c, inode, 10 * BLOCK, G, buf, v1 + 1) == G, "first");
    MUST(do_read(c, inode, 10 * BLOCK, G, back, &v1) == G && v1 > 0, "version %lu", v1);
    MUST(do_write(c, inode, 10 * BLOCK, G, buf, v1) == -EINTR, "old version");
    memset(buf, 'b', sizeof(buf));
    MUST(do_write(c, inode, 10 * BLOCK, G, buf, v1 + 1) == G, "next version");
    MUST(do_write(c, inode, 10 * BLOCK, G, buf, v1 + 1) == -EINTR, "once only");
    MUST(do_read(c, inode, 10 * BLOCK, G, back, &v2) == G && v2 == v1 + 1 && back[0] == 'b', "version %lu", v2);
    MUST(do_write(c, inode, 10 * BLOCK, 2 * BLOCK, buf, v2 + 1) == -EINVAL, "two objects");
    MUST(do_delete(c, inode, 10 * BLOCK, G, v2) == -EINTR, "delete of an old version");
    MUST(do_delete(c, inode, 10 * BLOCK, G, v2 + 1) == 0, "delete of this version");
    MUST(do_read(c, inode, 10 * BLOCK, G, back, NULL) == G && back[0] == 0, "it is still there");
}

static void bitmaps(vitastor_c *c, uint64_t inode)
{
    static char buf[4 * G];
    uint8_t *map;
    memset(buf, 'c', sizeof(buf));
    MUST(do_write(c, inode, 20 * BLOCK + 3 * G, 2 * G, buf, 0) == 2 * G, "write");
    for (int parents = 0; parents < 2; parents++) {
        MUST(do_bitmap(c, inode, 20 * BLOCK, 2 * BLOCK, parents, &map) == 2 * BLOCK / G && map, "bitmap");
        for (int i = 0; i < 2 * BLOCK / G; i++)
            MUST((map[i / 8] >> i % 8 & 1) == (i == 3 || i == 4), "bit %d", i);
        free(map);
    }
    MUST(do_bitmap(c, inode, 0, 0, 0, &map) == -EINVAL && !map, "empty");
    MUST(do_bitmap(c, inode, 100, G, 0, &map) == -EINVAL && !map, "unaligned");
    MUST(do_delete(c, inode, 20 * BLOCK, 2 * BLOCK, 0) == 2 * BLOCK, "delete");
    MUST(do_bitmap(c, inode, 20 * BLOCK, BLOCK, 0, &map) == BLOCK / G && !map[0], "after delete");
    free(map);
}

static void wrong(vitastor_c *c, uint64_t inode)
{
    char buf[2 * G] = { 0 };
    struct result r = { 0 };
    MUST(do_write(c, inode, 0, 0, buf, 0) == -EINVAL, "no length");
    MUST(do_write(c, inode, 512, G, buf, 0) == -EINVAL, "offset");
    MUST(do_write(c, inode, 0, 100, buf, 0) == -EINVAL, "length");
    MUST(do_read(c, inode, 0, 100, buf, NULL) == -EINVAL, "length of read");
    MUST(do_read(c, inode & 0xffffffff, 0, G, buf, NULL) == -EINVAL, "pool 0");
    MUST(do_read(c, 777ull << 48 | 1, 0, G, buf, NULL) == -EINVAL, "pool 777");
    struct iovec shorter = { buf, 100 };
    vitastor_c_write(c, inode, 0, G, 0, &shorter, 1, io_done, &r);
    MUST(finish(c, &r) == -EINVAL, "%ld", r.value);
    MUST(vitastor_c_inode_get_block_size(c, 777ull << 48) == 0, "block size of no pool");
}

static long do_zero(vitastor_c *c, uint64_t inode, uint64_t offset, uint64_t len)
{
    struct result r = { 0 };
    vitastor_c_zero_objects(c, inode, offset, len, io_done, &r);
    return finish(c, &r);
}

static void zeroes(vitastor_c *c, uint64_t inode)
{
    static char buf[2 * BLOCK];
    uint8_t *map;
    memset(buf, 'z', sizeof(buf));
    MUST(do_write(c, inode, 30 * BLOCK, 2 * BLOCK, buf, 0) == 2 * BLOCK, "write");
    MUST(do_zero(c, inode, 30 * BLOCK + G, BLOCK) == -EINVAL, "part of an object");
    MUST(do_zero(c, inode, 30 * BLOCK, BLOCK) == BLOCK, "zero");
    MUST(do_read(c, inode, 30 * BLOCK, 2 * BLOCK, buf, NULL) == 2 * BLOCK, "read");
    MUST(!buf[0] && !memcmp(buf, buf + 1, BLOCK - 1) && buf[BLOCK] == 'z', "not zero, or too much of it");
    MUST(do_bitmap(c, inode, 30 * BLOCK, BLOCK, 1, &map) == BLOCK / G && !map[0], "it is still there");
    free(map);
}

static void resize(vitastor_c *c, void *image)
{
    struct result r = { 0 }, bad = { 0 }, used = { 0 };
    uint64_t size = vitastor_c_inode_get_size(image);
    vitastor_c_resize(c, image, 2 * size, io_done, &r);
    MUST(finish(c, &r) == 0 && vitastor_c_inode_get_size(image) == 2 * size, "%ld", r.value);
    vitastor_c_resize(c, image, 2 * size + 1, io_done, &bad);
    MUST(finish(c, &bad) == -EINVAL, "%ld", bad.value);
    vitastor_c_get_used(c, vitastor_c_inode_get_num(image), io_done, &used);
    MUST(finish(c, &used) >= 0, "%ld", used.value);
}

static void readonly(vitastor_c *c, void *image)
{
    char buf[G] = { 0 };
    uint64_t inode = vitastor_c_inode_get_num(image);
    MUST(vitastor_c_inode_get_readonly(image), "not read-only");
    MUST(do_write(c, inode, 0, G, buf, 0) == -EROFS, "write");
    MUST(do_delete(c, inode, 0, G, 0) == -EROFS, "delete");
    MUST(do_zero(c, inode, 0, BLOCK) == -ENOTSUP, "objects over a parent");
    MUST(do_read(c, inode, 0, G, buf, NULL) == G, "read");
}

static void facts(vitastor_c *c, void *image)
{
    uint64_t inode = vitastor_c_inode_get_num(image);
    char *meta = vitastor_c_inode_get_meta(image);
    printf("inode %lx size %lu parent %lx readonly %d meta %s block %u granule %u commit %d revision %d internal %d\n", inode,
        vitastor_c_inode_get_size(image), vitastor_c_inode_get_parent_id(image), vitastor_c_inode_get_readonly(image),
        meta ? meta : "-", vitastor_c_inode_get_block_size(c, inode), vitastor_c_inode_get_bitmap_granularity(c, inode),
        vitastor_c_inode_get_immediate_commit(c, inode), vitastor_c_inode_get_mod_revision(image) > 0,
        vitastor_c_get_internal_client(c) != NULL);
    free(meta);
}

static void follow(vitastor_c *c, void *image)
{
    uint64_t last = ~0ull;
    while (last) {
        uint64_t now = vitastor_c_inode_get_num(image);
        if (now != last && (now || last != ~0ull)) {
            printf("%lx\n", now);
            fflush(stdout);
            last = now;
        } else {
            vitastor_c_uring_wait_events(c);
        }
    }
}

int main(int argc, char **argv)
{
    MUST(argc >= 3, "arguments");
    const char *what = argc > 3 ? argv[3] : "";
    vitastor_c *c = connect_etcd(argv[1]);
    vitastor_c_uring_wait_ready(c);
    MUST(vitastor_c_is_ready(c), "%s", vitastor_c_get_error(c));
    void *image = open_image(c, argv[2]);
    uint64_t inode = vitastor_c_inode_get_num(image);
    if (!strcmp(what, "readonly")) {
        readonly(c, image);
    } else if (!strcmp(what, "facts")) {
        facts(c, image);
    } else if (!strcmp(what, "follow")) {
        follow(c, image);
    } else {
        data(c, inode);
        conditions(c, inode);
        bitmaps(c, inode);
        wrong(c, inode);
        zeroes(c, inode);
        resize(c, image);
    }
    vitastor_c_close_watch(c, image);
    vitastor_c_destroy(c);
    return 0;
}
