/* Random file names and options, with the real dictionaries of QEMU: this is
 * preloaded into qemu-img, whose functions are used and whose main never runs.
 *
 *   make -C qemu-plugin fuzz
 *   LD_PRELOAD="$(cc -print-file-name=libasan.so) bin/lib/fuzz-names.so" VITASTOR_FUZZ="SEED SECONDS" qemu-img
 *
 * What must hold: nothing is read or written that is not ours (ASan, UBSan); a
 * name is refused with a message, or its options are those that it was made of;
 * options are refused with a message, or name exactly one image; the name that
 * QEMU shows for it has the same options.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"

#include <time.h>

#include "../vitastor.h"

#define KEYS_MAX 8

static uint64_t rng, tries, opened;
static char *input; /* for messages */

static uint64_t random64(void)
{
    uint64_t z = rng += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint64_t below(uint64_t n)
{
    return random64() % n;
}

static void expect(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, input);
        abort();
    }
}

/* A word of what means something here, or anything. */
static char *word(size_t longest)
{
    static const char alphabet[] = ":=\\&?/_-%@,{}\"' 0129azAZ\x01\x7f\xc3\xa4\xff";
    size_t n = below(longest + 1);
    char *text = g_malloc(n + 1);
    for (size_t i = 0; i < n; i++) {
        text[i] = alphabet[below(sizeof(alphabet) - 1)];
    }
    text[n] = 0;
    return text;
}

static void escaped(GString *name, const char *text, const char *special)
{
    for (; *text; text++) {
        if (*text == '\\' || strchr(special, *text) || below(16) == 0) {
            g_string_append_c(name, '\\');
        }
        g_string_append_c(name, *text);
    }
}

static const char *const words[] = { "image", "config-path", "etcd-host", "etcd-prefix", "use-rdma", "rdma-device", "other" };
static const char *const numbers[] = { "inode", "pool", "size", "skip-parents" };

/* Frees what a function has complained about; false if it has. */
static bool accepted(Error *e)
{
    if (e) {
        expect(*error_get_pretty(e), "an error without a message");
        error_free(e);
    }
    return !e;
}

static bool parse(const char *name, QDict *options)
{
    Error *e = NULL;
    g_free(input);
    input = g_strdup(name);
    vitastor_parse_filename(name, options, &e);
    tries++;
    return accepted(e);
}

/* A name that is made of options gives these options. */
static void check_made(void)
{
    bool url = below(2);
    g_autoptr(GString) name = g_string_new(url ? "vitastor://" : "vitastor:");
    QDict *want = qdict_new(), *got = qdict_new();
    if (url && below(2)) {
        g_string_append_c(name, '?');
    }
    for (int n = below(KEYS_MAX), i = 0; i < n; i++) {
        g_autofree char *value = word(12);
        const char *key = words[below(ARRAY_SIZE(words))];
        if (below(2)) {
            key = numbers[below(ARRAY_SIZE(numbers))];
            g_free(value);
            value = g_strdup_printf("%" PRIu64, random64() >> below(64));
            qdict_put_int(want, key, strtoull(value, NULL, 10));
        } else {
            qdict_put_str(want, key, value);
        }
        if (i) {
            g_string_append_c(name, url ? '&' : ':');
        }
        g_autofree char *spelt = g_strdup(key);
        escaped(name, below(2) ? spelt : g_strdelimit(spelt, "-", '_'), "=:&");
        g_string_append_c(name, '=');
        escaped(name, value, url ? "&" : ":");
    }
    expect(parse(name->str, got), "a good name is refused");
    expect(qobject_is_equal(QOBJECT(want), QOBJECT(got)), "other options than the name was made of");
    qobject_unref(want);
    qobject_unref(got);
}

static bool same(const char *a, const char *b)
{
    return a == b || (a && b && !strcmp(a, b));
}

/* Options open one image; what QEMU shows of it opens the same one. */
static void check_opened(QDict *options)
{
    VitastorState s = { 0 }, again = { 0 };
    Error *e = NULL;
    bool ok = vitastor_read_options(&s, options, &e);
    expect(accepted(e) == ok, "an error that is none, or the other way round");
    if (ok) {
        bool named = s.image && *s.image;
        expect(named ? !s.inode : s.inode && s.pool && s.size, "options that do not name one image");
        BlockDriverState *bs = g_new0(BlockDriverState, 1);
        bs->opaque = &s;
        vitastor_refresh_filename(bs);
        QDict *shown = qdict_new();
        if (named || !s.image) { /* an empty image name beside a number is shown as it is */
            expect(*bs->exact_filename && parse(bs->exact_filename, shown), "the name that is shown is refused");
            expect(vitastor_read_options(&again, shown, NULL), "the options that are shown are refused");
            expect(same(s.image, again.image) && same(s.config_path, again.config_path) && same(s.etcd_host, again.etcd_host) &&
                same(s.etcd_prefix, again.etcd_prefix) && (named || (s.inode == again.inode && s.pool == again.pool && s.size == again.size)),
                "another image is shown");
            vitastor_free_options(&again);
            opened++;
        }
        qobject_unref(shown);
        g_free(bs);
    }
    vitastor_free_options(&s);
}

/* Anything at all, mostly nearly right. */
static void check_any(void)
{
    static const char *const seeds[] = { "vitastor:image=a:config_path=/etc/x", "vitastor://?image=a&etcd_host=1.2.3.4:2379",
        "vitastor:pool=1:inode=2:size=4096", "vitastor:image=a\\:b@snap:skip-parents=1", "vitastor:inode=281474976710657:size=1G", "vitastor:" };
    g_autoptr(GString) name = g_string_new(seeds[below(ARRAY_SIZE(seeds))]);
    for (int n = below(4); n > 0; n--) {
        g_autofree char *more = word(6);
        size_t at = below(name->len + 1);
        g_string_erase(name, at, below(2) * below(MIN(name->len - at, 4) + 1));
        g_string_insert(name, at, more);
    }
    QDict *options = qdict_new();
    if (parse(name->str, options)) {
        check_opened(options);
    }
    qobject_unref(options);
}

static void __attribute__((constructor)) run(void)
{
    const char *how = getenv("VITASTOR_FUZZ");
    double seconds = 0;
    if (!how || sscanf(how, "%" SCNu64 " %lf", &rng, &seconds) != 2) {
        fprintf(stderr, "VITASTOR_FUZZ must be \"SEED SECONDS\"\n");
        _exit(2);
    }
    for (time_t end = time(NULL) + seconds; time(NULL) <= end;) {
        for (int i = 0; i < 1000; i++) {
            check_made();
            check_any();
        }
    }
    printf("%" PRIu64 " names, %" PRIu64 " opened\n", tries, opened);
    exit(0);
}
