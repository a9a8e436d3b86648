/* File names and options of the block driver.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include "vitastor.h"

#define CONFIG_MAX (1 << 20)

/* Reads up to one of the characters of end; a backslash escapes. */
static const char *vitastor_word(const char *p, const char *end, GString *word)
{
    g_string_truncate(word, 0);
    for (; *p && !strchr(end, *p); p++) {
        if (*p == '\\' && p[1]) {
            p++;
        }
        g_string_append_c(word, *p);
    }
    return p;
}

static const char *const vitastor_numbers[] = { "inode", "pool", "size", "skip-parents" };

static bool vitastor_put(QDict *options, const char *key, const char *value, Error **errp)
{
    for (size_t i = 0; i < ARRAY_SIZE(vitastor_numbers); i++) {
        uint64_t n;
        if (strcmp(key, vitastor_numbers[i]) != 0) {
            continue;
        }
        if (!vitastor_parse_number(value, &n)) {
            error_setg(errp, "vitastor: %s must be a number, not '%s'", key, value);
            return false;
        }
        qdict_put_int(options, key, n);
        return true;
    }
    qdict_put_str(options, key, value);
    return true;
}

/* vitastor:key=value:key=value... or vitastor://?key=value&key=value... */
void vitastor_parse_filename(const char *filename, QDict *options, Error **errp)
{
    const char *p = filename, *ends = ":";
    if (!strstart(p, "vitastor:", &p)) {
        error_setg(errp, "File name must begin with 'vitastor:'");
        return;
    }
    if (strstart(p, "//", &p)) {
        strstart(p, "?", &p);
        ends = "&";
    }
    g_autoptr(GString) key = g_string_new(NULL);
    g_autoptr(GString) value = g_string_new(NULL);
    g_autofree char *key_ends = g_strconcat("=", ends, NULL);
    while (*p) {
        p = vitastor_word(p, key_ends, key);
        if (*p != '=') {
            error_setg(errp, "vitastor: '%s' in the file name has no '=': write image=%s", key->str, key->str);
            return;
        }
        p = vitastor_word(p + 1, ends, value);
        if (*p) {
            p++;
        }
        g_strdelimit(key->str, "_", '-');
        if (!vitastor_put(options, key->str, value->str, errp)) {
            return;
        }
    }
}

static QemuOptsList vitastor_runtime_opts = {
    .name = "vitastor",
    .head = QTAILQ_HEAD_INITIALIZER(vitastor_runtime_opts.head),
    .desc = {
        { .name = "image", .type = QEMU_OPT_STRING, .help = "image, or image@snapshot" },
        { .name = "inode", .type = QEMU_OPT_NUMBER, .help = "inode number, instead of image" },
        { .name = "pool", .type = QEMU_OPT_NUMBER, .help = "pool of the inode" },
        { .name = "size", .type = QEMU_OPT_SIZE, .help = "bytes, for inode" },
        { .name = "config-path", .type = QEMU_OPT_STRING, .help = "configuration file" },
        { .name = "etcd-host", .type = QEMU_OPT_STRING, .help = "addresses of etcd, separated by commas" },
        { .name = "etcd-prefix", .type = QEMU_OPT_STRING, .help = "prefix of all keys" },
        { .name = "skip-parents", .type = QEMU_OPT_NUMBER, .help = "block status of this layer only" },
        { .name = "use-rdma", .type = QEMU_OPT_STRING, .help = "use RDMA" },
        { .name = "rdma-device", .type = QEMU_OPT_STRING, .help = "RDMA device" },
        { .name = "rdma-port-num", .type = QEMU_OPT_STRING, .help = "RDMA port" },
        { .name = "rdma-gid-index", .type = QEMU_OPT_STRING, .help = "RDMA GID index" },
        { .name = "rdma-mtu", .type = QEMU_OPT_STRING, .help = "RDMA MTU" },
        { /* end */ },
    },
};

bool vitastor_read_options(VitastorState *s, QDict *options, Error **errp)
{
    QemuOpts *opts = qemu_opts_create(&vitastor_runtime_opts, NULL, 0, NULL);
    if (!opts || !qemu_opts_absorb_qdict(opts, options, errp)) {
        qemu_opts_del(opts);
        return false;
    }
    s->image = g_strdup(qemu_opt_get(opts, "image"));
    s->config_path = g_strdup(qemu_opt_get(opts, "config-path"));
    s->etcd_host = g_strdup(qemu_opt_get(opts, "etcd-host"));
    s->etcd_prefix = g_strdup(qemu_opt_get(opts, "etcd-prefix"));
    s->use_rdma = g_strdup(qemu_opt_get(opts, "use-rdma"));
    s->rdma_device = g_strdup(qemu_opt_get(opts, "rdma-device"));
    s->rdma_port_num = g_strdup(qemu_opt_get(opts, "rdma-port-num"));
    s->rdma_gid_index = g_strdup(qemu_opt_get(opts, "rdma-gid-index"));
    s->rdma_mtu = g_strdup(qemu_opt_get(opts, "rdma-mtu"));
    s->inode = qemu_opt_get_number(opts, "inode", 0);
    s->pool = qemu_opt_get_number(opts, "pool", 0);
    s->size = qemu_opt_get_size(opts, "size", 0);
    s->skip_parents = qemu_opt_get_number(opts, "skip-parents", 0) != 0;
    qemu_opts_del(opts);
    if (!s->pool) {
        s->pool = s->inode >> (64 - POOL_ID_BITS);
    }
    s->inode &= (1ull << (64 - POOL_ID_BITS)) - 1;
    if (s->image && *s->image && s->inode) {
        error_setg(errp, "vitastor: give either image or inode, pool and size");
        return false;
    }
    if ((!s->image || !*s->image) && (!s->inode || !s->pool || !s->size)) {
        error_setg(errp, "vitastor: image is missing (or inode, pool and size)");
        return false;
    }
    return true;
}

/* qemu_file_mirror_path is for QEMU alone, and only in the file. */
void vitastor_read_config(VitastorState *s)
{
    g_autofree char *text = NULL;
    gsize n = 0;
    if (!s->config_path || !g_file_get_contents(s->config_path, &text, &n, NULL) || n > CONFIG_MAX) {
        return;
    }
    QObject *json = qobject_from_json(text, NULL);
    QDict *dict = qobject_to(QDict, json);
    if (dict) {
        s->mirror_path = g_strdup(qdict_get_try_str(dict, "qemu_file_mirror_path"));
    }
    qobject_unref(json);
}

void vitastor_free_options(VitastorState *s)
{
    g_free(s->image);
    g_free(s->config_path);
    g_free(s->etcd_host);
    g_free(s->etcd_prefix);
    g_free(s->mirror_path);
    g_free(s->use_rdma);
    g_free(s->rdma_device);
    g_free(s->rdma_port_num);
    g_free(s->rdma_gid_index);
    g_free(s->rdma_mtu);
}

int coroutine_fn vitastor_co_create_opts(BlockDriver *drv, const char *url, QemuOpts *opts, Error **errp)
{
    QDict *options = qdict_new();
    Error *e = NULL;
    vitastor_parse_filename(url, options, &e);
    qobject_unref(options);
    if (e) {
        error_propagate(errp, e);
        return -EINVAL;
    }
    return 0; /* images are made by vitastor-cli */
}

static void vitastor_append(GString *name, const char *key, const char *value)
{
    g_string_append_printf(name, "%s%s=", strchr(name->str, '=') ? "&" : "", key);
    for (; *value; value++) {
        if (*value == '&' || *value == '\\') {
            g_string_append_c(name, '\\');
        }
        g_string_append_c(name, *value);
    }
}

/* The name must open the same image when it is given to us again. */
void vitastor_refresh_filename(BlockDriverState *bs)
{
    VitastorState *s = bs->opaque;
    g_autoptr(GString) name = g_string_new(NULL);
    if (s->mirror_path && s->image) {
        g_string_printf(name, "%s%s", s->mirror_path, s->image);
    } else {
        if (s->image) {
            g_string_assign(name, "vitastor://?");
            vitastor_append(name, "image", s->image);
        } else {
            g_string_printf(name, "vitastor://?pool=%" PRIu64 "&inode=%" PRIu64 "&size=%" PRIu64, s->pool, s->inode, s->size);
        }
        const char *const more[][2] = { { "config_path", s->config_path }, { "etcd_host", s->etcd_host },
            { "etcd_prefix", s->etcd_prefix } };
        for (size_t i = 0; i < ARRAY_SIZE(more); i++) {
            if (more[i][1]) {
                vitastor_append(name, more[i][0], more[i][1]);
            }
        }
    }
    /* without one, QEMU uses the json: form */
    pstrcpy(bs->exact_filename, sizeof(bs->exact_filename), name->len < sizeof(bs->exact_filename) ? name->str : "");
}
