#!/usr/bin/perl -T
# The whole life of disks, snapshots, templates and linked clones.

use strict;
use warnings;

use Test::More;

use Rig qw($plugin $dir fails storage image_names with_cluster qemu_io json_name clean);

with_cluster() or plan(skip_all => 'VITASTOR_BIN and VITASTOR_CONFIG name no cluster');
my $scfg = storage();
my $prefix = $scfg->{vitastor_prefix};

sub volumes { return join(' ', map { $_->{volid} } @{ $plugin->list_images('st', $scfg, $_[0], $_[1], {}) }) }
sub pattern { my ($volume, $byte) = @_; return qemu_io($scfg, $volume, "read -P $byte 0 1M") }
sub fill { my ($volume, $byte) = @_; return qemu_io($scfg, $volume, "write -P $byte 0 1M", 'flush') }

$plugin->on_add_hook('st', $scfg);
like(fails(sub { $plugin->on_add_hook('st', { %$scfg, vitastor_pool => 'wrong' }) }), qr/pool wrong does not exist/);
{
    my $lost = { %$scfg, vitastor_etcd_address => '127.0.0.1:1' };
    for my $try (sub { $plugin->status('st', $lost, {}) }, sub { $plugin->on_add_hook('st', $lost) }) {
        like(fails($try), qr/^vitastor-cli: cannot read the state of the cluster from etcd: .*127\.0\.0\.1:1/, 'etcd is not there');
    }
}
my ($total, $free, $used, $active) = $plugin->status('st', $scfg, {});
ok($total > 1e8 && $free > 1e8 && $free <= $total && $used == $total - $free && $active, "status: $total $free $used");
is($plugin->check_connection('st', $scfg), 1);
my $identity = $plugin->get_identity($scfg, 'st');
like($identity, qr!^etcd:[0-9a-f]+/vitastor:pool:1:\Q$prefix\E$!);
my ($etcd) = PVE::Storage::Vitastor::Identity::configuration($scfg->{vitastor_config_path})->{etcd_address};
is($plugin->get_identity({ %$scfg, vitastor_config_path => undef, vitastor_etcd_address => $etcd->[0] }, 'st'), $identity,
    'however it is configured');

subtest 'disks' => sub {
    is($plugin->alloc_image('st', $scfg, 100, 'raw', undef, 8 << 10), 'vm-100-disk-0');
    is($plugin->alloc_image('st', $scfg, 100, 'raw', undef, 4097), 'vm-100-disk-1');
    is($plugin->alloc_image('st', $scfg, 100, 'raw', 'vm-100-cloudinit', 4096), 'vm-100-cloudinit');
    is($plugin->alloc_image('st', $scfg, 1000, 'raw', undef, 4096), 'vm-1000-disk-0');
    is(scalar($plugin->volume_size_info($scfg, 'st', 'vm-100-disk-1')), 4100 << 10, 'rounded up to 4 KiB');
    is_deeply([($plugin->volume_size_info($scfg, 'st', 'vm-100-disk-0'))[0, 1, 3, 4]], [8 << 20, 'raw', undef, 0]);
    is(volumes(), 'st:vm-100-cloudinit st:vm-100-disk-0 st:vm-100-disk-1 st:vm-1000-disk-0');
    is(volumes(100), 'st:vm-100-cloudinit st:vm-100-disk-0 st:vm-100-disk-1');
    is(volumes(undef, ['st:vm-1000-disk-0', 'st:vm-5-disk-0']), 'st:vm-1000-disk-0');
    is(fails(sub { $plugin->alloc_image('st', $scfg, 100, 'raw', 'vm-100-disk-0', 4096) }),
        "vitastor-cli: Image ${prefix}vm-100-disk-0 already exists\n");
    $plugin->free_image('st', $scfg, 'vm-100-disk-1', 0, 'raw');
    $plugin->free_image('st', $scfg, 'vm-100-disk-1', 0, 'raw');
    is($plugin->find_free_diskname('st', $scfg, 100, 'raw', 0), 'vm-100-disk-1', 'names are used again');
    $plugin->free_image('st', $scfg, $_) for qw(vm-100-cloudinit vm-1000-disk-0);
};

subtest 'resizing' => sub {
    is($plugin->volume_resize($scfg, 'st', 'vm-100-disk-0', 16 << 20, 0), 1);
    is($plugin->volume_resize($scfg, 'st', 'vm-100-disk-0', 12 << 20, 0), 1);
    is(scalar($plugin->volume_size_info($scfg, 'st', 'vm-100-disk-0')), 16 << 20, 'never smaller');
};

subtest 'snapshots and rollback' => sub {
    fill('vm-100-disk-0', 1);
    $plugin->volume_snapshot($scfg, 'st', 'vm-100-disk-0', 'one');
    like(fails(sub { $plugin->volume_snapshot($scfg, 'st', 'vm-100-disk-0', 'one') }), qr/already exists/);
    fill('vm-100-disk-0', 2);
    $plugin->volume_snapshot($scfg, 'st', 'vm-100-disk-0', 'two');
    fill('vm-100-disk-0', 3);
    my $info = $plugin->volume_snapshot_info($scfg, 'st', 'vm-100-disk-0');
    is_deeply({ map { my $s = $_; ($s => [@{ $info->{$s} }{qw(order parent virtual-size)}]) } keys %$info },
        { one => [0, undef, 16 << 20], two => [1, 'one', 16 << 20] });
    ok(abs($info->{$_}{timestamp} - time()) < 60, "time of $_") for keys %$info;
    pattern('vm-100-disk-0@one', 1);
    pattern('vm-100-disk-0@two', 2);
    ok($plugin->volume_rollback_is_possible($scfg, 'st', 'vm-100-disk-0', 'one', []));
    $plugin->volume_resize($scfg, 'st', 'vm-100-disk-0', 20 << 20, 0);
    for my $case (['one', 1], ['two', 2], ['one', 1]) {
        $plugin->volume_snapshot_rollback($scfg, 'st', 'vm-100-disk-0', $case->[0]);
        pattern('vm-100-disk-0', $case->[1]);
        is(scalar($plugin->volume_size_info($scfg, 'st', 'vm-100-disk-0')), 16 << 20, 'the size of the snapshot');
    }
    like(fails(sub { $plugin->volume_snapshot_rollback($scfg, 'st', 'vm-100-disk-0', 'none') }), qr/vm-100-disk-0\@none does not exist/);
    is(join(' ', @{ image_names($scfg) }), 'vm-100-disk-0 vm-100-disk-0@one vm-100-disk-0@two');
    fill('vm-100-disk-0', 4);
    $plugin->rename_snapshot($scfg, 'st', 'vm-100-disk-0', 'two', 'zwei');
    pattern('vm-100-disk-0@zwei', 2);
    $plugin->volume_snapshot_delete($scfg, 'st', 'vm-100-disk-0', 'one', 0) for 1, 2;
    pattern('vm-100-disk-0', 4);
    pattern('vm-100-disk-0@zwei', 2);
    $plugin->volume_snapshot_delete($scfg, 'st', 'vm-100-disk-0', 'zwei', 1);
    is(join(' ', @{ image_names($scfg) }), 'vm-100-disk-0');
    pattern('vm-100-disk-0', 4);
};

subtest 'templates and linked clones' => sub {
    $plugin->volume_snapshot($scfg, 'st', 'vm-100-disk-0', 's');
    like(fails(sub { $plugin->create_base('st', $scfg, 'vm-100-disk-0') }), qr/has snapshots/);
    $plugin->volume_snapshot_delete($scfg, 'st', 'vm-100-disk-0', 's', 0);
    is($plugin->create_base('st', $scfg, 'vm-100-disk-0'), 'base-100-disk-0');
    is($plugin->create_base('st', $scfg, 'vm-100-disk-0'), 'base-100-disk-0', 'repeated');
    pattern('base-100-disk-0', 4);
    $plugin->activate_volume('st', $scfg, 'base-100-disk-0');
    like(fails(sub {
        PVE::Tools::run_command(['/usr/bin/qemu-io', '-c', 'write 0 4k', clean(json_name($scfg, 'base-100-disk-0'))], errfunc => sub { die $_[0] });
    }), qr/read.only|not permitted|denied/i, 'a template is not written');
    $plugin->deactivate_volume('st', $scfg, 'base-100-disk-0');
    is($plugin->clone_image($scfg, 'st', 'base-100-disk-0', 101), 'base-100-disk-0/vm-101-disk-0');
    is($plugin->clone_image($scfg, 'st', 'base-100-disk-0', 101), 'base-100-disk-0/vm-101-disk-1');
    my $clone = 'base-100-disk-0/vm-101-disk-0';
    pattern($clone, 4);
    fill($clone, 5);
    pattern('base-100-disk-0', 4);
    is(volumes(), 'st:base-100-disk-0 st:base-100-disk-0/vm-101-disk-0 st:base-100-disk-0/vm-101-disk-1');
    is(($plugin->volume_size_info($scfg, 'st', $clone))[3], "${prefix}base-100-disk-0");

    # A clone of a snapshot of a clone.
    $plugin->volume_snapshot($scfg, 'st', $clone, 'snap');
    is($plugin->clone_image($scfg, 'st', $clone, 102, 'snap'), 'vm-102-disk-0');
    fill($clone, 6);
    pattern('vm-102-disk-0', 5);

    # The image has snapshots of its own between itself and the template.
    $plugin->volume_snapshot($scfg, 'st', $clone, 'snap2');
    $plugin->volume_snapshot_rollback($scfg, 'st', $clone, 'snap2');
    is(volumes(), "st:base-100-disk-0 st:$clone st:base-100-disk-0/vm-101-disk-1 st:vm-102-disk-0", 'names stay');
    # A template of a clone.
    is($plugin->create_base('st', $scfg, 'base-100-disk-0/vm-101-disk-1'), 'base-100-disk-0/base-101-disk-1');
    is($plugin->clone_image($scfg, 'st', 'base-100-disk-0/base-101-disk-1', 103), 'base-101-disk-1/vm-103-disk-0');
    pattern('base-101-disk-1/vm-103-disk-0', 4);

    like(fails(sub { $plugin->free_image('st', $scfg, 'base-100-disk-0', 1) }),
        qr/cannot be removed, because there are linked clones of it: $prefix\S+ \(of ${prefix}base-100-disk-0\), $prefix/);
    like(fails(sub { $plugin->free_image('st', $scfg, $clone) }), qr/linked clones of it: ${prefix}vm-102-disk-0 \(of ${prefix}vm-101-disk-0\@snap\)/);
    pattern($clone, 6);
    like(fails(sub { $plugin->free_image('st', $scfg, 'base-100-disk-0/base-101-disk-1', 1) }), qr/${prefix}vm-103-disk-0/);
    $plugin->free_image('st', $scfg, $_) for qw(vm-102-disk-0), $clone, qw(base-101-disk-1/vm-103-disk-0 base-101-disk-1 base-100-disk-0);
    is(join(' ', @{ image_names($scfg) }), '');
};

subtest 'names that begin alike' => sub {
    $plugin->alloc_image('st', $scfg, 1, 'raw', "vm-1-disk-$_", 4096) for 1, 10;
    fill('vm-1-disk-1', 1);
    $plugin->volume_snapshot($scfg, 'st', "vm-1-disk-$_", 's') for 1, 10;
    # A clone by its name, of a snapshot, with a name that begins like that of its origin.
    PVE::Storage::Vitastor::CLI->new($scfg)->run('create', '--parent', "${prefix}vm-1-disk-1\@s", "${prefix}vm-1-disk-11");
    like(fails(sub { $plugin->free_image('st', $scfg, 'vm-1-disk-1') }), qr/linked clones of it: ${prefix}vm-1-disk-11/);
    PVE::Storage::Vitastor::CLI->new($scfg)->run('modify', '--rename', "of-somebody-else$$", "${prefix}vm-1-disk-11");
    like(fails(sub { $plugin->free_image('st', $scfg, 'vm-1-disk-1') }), qr/linked clones of it: of-somebody-else$$/);
    PVE::Storage::Vitastor::CLI->new($scfg)->run('rm', "of-somebody-else$$");
    $plugin->free_image('st', $scfg, 'vm-1-disk-1');
    is(join(' ', @{ image_names($scfg) }), 'vm-1-disk-10 vm-1-disk-10@s');
    $plugin->free_image('st', $scfg, 'vm-1-disk-10');
};

subtest 'other names' => sub {
    $plugin->alloc_image('st', $scfg, 1, 'raw', 'vm-1-disk-0', 4096);
    fill('vm-1-disk-0', 7);
    $plugin->volume_snapshot($scfg, 'st', 'vm-1-disk-0', 's');
    is($plugin->rename_volume($scfg, 'st', 'vm-1-disk-0', 2), 'st:vm-2-disk-0');
    pattern('vm-2-disk-0@s', 7);
    pattern('vm-2-disk-0', 7);
    $plugin->alloc_image('st', $scfg, 2, 'raw', 'vm-2-disk-5', 4096);
    like(fails(sub { $plugin->rename_volume($scfg, 'st', 'vm-2-disk-0', 2, 'vm-2-disk-5') }), qr/'vm-2-disk-5' already exists/);
    $plugin->free_image('st', $scfg, $_) for qw(vm-2-disk-0 vm-2-disk-5);
    is(join(' ', @{ image_names($scfg) }), '');
};

done_testing();
