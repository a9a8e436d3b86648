#!/usr/bin/perl -T
# Failures of vitastor-cli are exceptions with its words.

use strict;
use warnings;

use Test::More;

use Rig qw($plugin $dir fails program);

my $scfg = { vitastor_pool => 'p', vitastor_etcd_address => '127.0.0.1:1' };

like(fails(sub { $plugin->status('st', $scfg, {}) }), qr/vitastor-cli is not installed: apt install vitastor-client/);
is(fails(sub { $plugin->on_add_hook('st', { %$scfg, disable => 1 }) }), 'nothing went wrong', 'a disabled storage asks nobody');

program('cli', 'echo "Image x already exists" >&2; exit 17');
is(fails(sub { $plugin->alloc_image('st', $scfg, 1, 'raw', 'vm-1-x', 4) }), "vitastor-cli: Image x already exists\n");

program('cli', 'echo \'{"error_code": 1, "error_text": "cannot read the state of the cluster"}\'; exit 1');
like(fails(sub { $plugin->status('st', $scfg, {}) }), qr/^vitastor-cli: cannot read the state of the cluster$/);
{
    my $warning = '';
    local $SIG{__WARN__} = sub { $warning .= $_[0] };
    is($plugin->check_connection('st', $scfg), 0);
    like($warning, qr/storage 'st': vitastor-cli: cannot read/);
}
like(fails(sub { $plugin->on_add_hook('st', $scfg) }), qr/cannot read the state/, 'a storage is not added then');

program('cli', 'echo "[]"');
like(fails(sub { $plugin->status('st', $scfg, {}) }), qr/pool p does not exist/);
like(fails(sub { $plugin->volume_size_info($scfg, 'st', 'vm-1-disk-0') }), qr!image pve/vm-1-disk-0 does not exist!);
like(fails(sub { $plugin->volume_snapshot_delete($scfg, 'st', 'vm-1-disk-0', 's') }), qr!image pve/vm-1-disk-0 does not exist!);
like(fails(sub { $plugin->rename_volume($scfg, 'st', 'vm-1-disk-0', 2) }), qr!image pve/vm-1-disk-0 does not exist!);

program('cli', 'echo "<html>"');
like(fails(sub { $plugin->status('st', $scfg, {}) }), qr/its answer is not JSON/);

program('cli', 'exit 3');
like(fails(sub { $plugin->volume_snapshot($scfg, 'st', 'vm-1-disk-0', 's') }), qr/^vitastor-cli: .*exit code 3$/);

program('cli', 'exec sleep 20');
{
    local $PVE::Storage::Vitastor::CLI::ASK_SECONDS = 1;
    like(fails(sub { $plugin->status('st', $scfg, {}) }), qr/timeout/);
}

program('cli', "printf '%s\\n' \"\$@\" > $dir/args; echo '[]'");
$plugin->list_images('st', { %$scfg, vitastor_prefix => 'a*; rm -rf $HOME/', vitastor_etcd_prefix => '/other' }, undef, undef, {});
is(do { open(my $in, '<', "$dir/args"); join('', <$in>) },
    "--etcd_address\n127.0.0.1:1\n--etcd_prefix\n/other\n--json\nls\na\\*; rm -rf \$HOME/*\n", 'arguments pass through no shell');

like(fails(sub { $plugin->alloc_image('st', $scfg, 1, 'qcow2', undef, 4) }), qr/unsupported format 'qcow2'/);
like(fails(sub { $plugin->alloc_image('st', $scfg, 1, 'raw', 'vm-2-disk-0', 4) }), qr/illegal name/);
like(fails(sub { $plugin->create_base('st', $scfg, 'base-1-disk-0') }), qr/template already/);
like(fails(sub { $plugin->clone_image($scfg, 'st', 'vm-1-disk-0', 2) }), qr/neither a template nor a snapshot/);
like(fails(sub { $plugin->volume_resize($scfg, 'st', 'vm-1-disk-0', 1 << 20, 0, 'snap') }), qr/snapshots cannot be resized/);
like(fails(sub { $plugin->update_volume_attribute($scfg, 'st', 'vm-1-disk-0', 'color', 1) }), qr/'color' is not supported/);
for my $bad (['tar+size'], ['raw+size', undef, 'base'], ['raw+size', undef, undef, 1]) {
    like(fails(sub { $plugin->volume_export($scfg, 'st', \*STDOUT, 'vm-1-disk-0', @$bad) }), qr/type 'vitastor'/);
    like(fails(sub { $plugin->volume_import($scfg, 'st', \*STDIN, 'vm-1-disk-0', @$bad) }), qr/type 'vitastor'/);
}

done_testing();
