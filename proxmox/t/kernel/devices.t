#!/usr/bin/perl -T
# Block devices of a real kernel: a container's file system, a snapshot of it, a
# new size, a server that is killed. Runs in a machine, see guest_test.go.

use strict;
use warnings;

use Test::More;

use Rig qw($plugin $dir clean fails storage image_names with_cluster);

with_cluster() or plan(skip_all => 'VITASTOR_BIN and VITASTOR_CONFIG name no cluster');
my $bin = clean($ENV{VITASTOR_BIN});
$Rig::programs->{$_} = "$bin/vitastor-$_" for qw(nbd ublk vduse);
$Rig::programs->{modprobe} = '/usr/sbin/modprobe';
$PVE::Storage::Vitastor::Attach::DEVICE_DIR = '/dev/vitastor-pve';
$PVE::Cluster::GUESTS{100} = 'lxc';
my $mount = "$dir/mnt";
mkdir($mount);

sub sh {
    my ($command) = @_;
    my $out = '';
    PVE::Tools::run_command(['/bin/sh', '-ec', clean($command)], outfunc => sub { $out .= "$_[0]\n" }, errfunc => sub { $out .= "$_[0]\n" }, timeout => 120);
    return $out;
}

sub size { my ($link) = @_; my ($name) = readlink($link) =~ m!(\w+)$!; return sh("cat /sys/block/$name/size") * 512 }

# kill_server kills the process of the only device.
sub kill_server {
    my ($method) = @_;
    my $all = PVE::Storage::Vitastor::CLI::decode(sh("$bin/vitastor-$method ls --json"));
    my ($pid) = map { $_->{pid} // () } values %$all;
    kill('KILL', clean($pid)) or die "no process\n";
    return PVE::Storage::Vitastor::Attach::wait_for(10, sub { !kill(0, $pid) || sh("cat /proc/$pid/stat 2>/dev/null || echo gone") =~ /gone|\) Z/ });
}

for my $method (split(/,/, clean($ENV{VITASTOR_PVE_METHODS} || 'vduse,ublk,nbd'))) {
    subtest $method => sub {
        my $scfg = storage(vitastor_attach => $method);
        my $volume = $plugin->alloc_image('st', $scfg, 100, 'raw', undef, 64 << 10);
        $plugin->activate_volume('st', $scfg, $volume, undef, {}, {});
        my $path = $plugin->path($scfg, $volume, 'st');
        ok(-b $path, $path);
        is($plugin->map_volume('st', $scfg, $volume, undef, {}), $path);
        is(size($path), 64 << 20);
        sh("mkfs.ext4 -q $path && mount $path $mount && echo one >$mount/file && sync");

        $plugin->volume_snapshot($scfg, 'st', $volume, 's');
        sh("echo two >$mount/file && sync");

        # Since Linux 6.16 ublk grows while it is used.
        my $error = fails(sub { $plugin->volume_resize($scfg, 'st', $volume, 96 << 20, 1) });
        if ($method eq 'ublk' && $error ne 'nothing went wrong') {
            like($error, qr/the image has grown, but .* will only after the volume was deactivated/);
        } else {
            is($error, 'nothing went wrong');
            is(size($path), 96 << 20);
            sh("resize2fs $path");
        }

        ok(kill_server($method), 'the server is killed');
        $plugin->activate_volume('st', $scfg, $volume);
        is(sh("echo 3 >/proc/sys/vm/drop_caches; cat $mount/file; echo three >$mount/file; sync"), "two\n", 'its device goes on');

        like(fails(sub { $plugin->deactivate_volume('st', $scfg, $volume) }), qr/in use/, 'it is mounted');
        sh("umount $mount");
        open(my $opened, '<', $path) or die $!;
        like(fails(sub { $plugin->deactivate_volume('st', $scfg, $volume) }), qr/in use/, 'it is open');
        close($opened);
        sh("e2fsck -fn $path");
        $plugin->unmap_volume('st', $scfg, $volume) for 1, 2;
        ok(!-e $path);

        my $snapshot = $plugin->map_volume('st', $scfg, $volume, 's');
        is(sh("mount -o ro,noload $snapshot $mount && cat $mount/file && umount $mount"), "one\n", 'the snapshot');
        $plugin->unmap_volume('st', $scfg, $volume, 's');

        $plugin->activate_volume('st', $scfg, $volume);
        is(size($path), 96 << 20);
        is(sh("mount $path $mount && cat $mount/file && umount $mount"), "three\n");
        $plugin->volume_snapshot_rollback($scfg, 'st', $volume, 's');
        ok(!-e $path, 'a rollback detaches the device');
        $plugin->activate_volume('st', $scfg, $volume);
        is(sh("mount $path $mount && cat $mount/file && umount $mount"), "one\n");
        $plugin->free_image('st', $scfg, $volume);
        is(join(' ', @{ image_names($scfg) }), '');
        like(sh("$bin/vitastor-$method ls --json"), qr/^\{\}$/, 'no device is left');
    };
}

subtest 'automatically' => sub {
    my $scfg = storage();
    my $volume = $plugin->alloc_image('st', $scfg, 100, 'raw', undef, 4 << 10);
    $plugin->activate_volume('st', $scfg, $volume);
    like(readlink($plugin->path($scfg, $volume, 'st')), qr!^/dev/vd!, 'VDUSE is the best');
    $plugin->free_image('st', $scfg, $volume);
};

done_testing();
