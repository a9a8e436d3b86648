#!/usr/bin/perl -T
# Volumes as files, between storages.

use strict;
use warnings;

use Test::More;

use Rig qw($plugin $dir clean fails storage image_names with_cluster qemu_io json_name);

with_cluster() or plan(skip_all => 'VITASTOR_BIN and VITASTOR_CONFIG name no cluster');
my $scfg = storage();
my $prefix = $scfg->{vitastor_prefix};

sub export {
    my ($file, @args) = @_;
    open(my $out, '>', "$dir/$file") or die $!;
    $plugin->volume_export($scfg, 'st', $out, @args);
    close($out);
    return;
}

sub import_file {
    my ($file, $volume, $rename, $snapshot) = @_;
    open(my $in, '<', "$dir/$file") or die $!;
    return $plugin->volume_import($scfg, 'st', $in, $volume, 'raw+size', $snapshot, undef, 0, $rename);
}

sub cut {
    my ($from, $to, $bytes) = @_;
    open(my $in, '<', "$dir/$from") or die $!;
    read($in, my $data, $bytes);
    open(my $out, '>', "$dir/$to") or die $!;
    print $out $data;
    return;
}

$plugin->alloc_image('st', $scfg, 1, 'raw', 'vm-1-disk-0', 8 << 10);
qemu_io($scfg, 'vm-1-disk-0', 'write -P 1 1M 64k', 'write -P 2 8188k 4k', 'flush');
$plugin->volume_snapshot($scfg, 'st', 'vm-1-disk-0', 's');
qemu_io($scfg, 'vm-1-disk-0', 'write -P 3 1M 64k', 'flush');

export('now', 'vm-1-disk-0', 'raw+size', undef, undef, 0);
export('snap', 'vm-1-disk-0', 'raw+size', 's', undef, undef);
is(-s "$dir/now", 8 + (8 << 20));
is(unpack('Q<', do { open(my $in, '<', "$dir/now"); read($in, my $size, 8); $size }), 8 << 20);

is(import_file('now', 'vm-2-disk-0', 0), 'st:vm-2-disk-0');
qemu_io($scfg, 'vm-2-disk-0', 'read -P 3 1M 64k', 'read -P 0 0 1M', 'read -P 2 8188k 4k');
is(import_file('snap', 'base-1-disk-0/vm-2-disk-0', 1, 's'), 'st:vm-2-disk-1', 'another name, if that is allowed');
qemu_io($scfg, 'vm-2-disk-1', 'read -P 1 1M 64k');
is(import_file('now', 'base-3-disk-0', 0), 'st:base-3-disk-0');
is_deeply([map { $_->{readonly} } PVE::Storage::Vitastor::CLI->new($scfg)->images("${prefix}base-3-disk-0")], [JSON::PP::true()]);

# Through a pipe, as between nodes.
pipe(my $reader, my $writer) or die $!;
my $pid = fork() // die $!;
if (!$pid) {
    close($reader);
    $plugin->volume_export($scfg, 'st', $writer, 'vm-1-disk-0', 'raw+size', undef, undef, 0);
    POSIX::_exit(0);
}
close($writer);
is($plugin->volume_import($scfg, 'st', $reader, 'vm-4-disk-0', 'raw+size', undef, undef, 0, 0), 'st:vm-4-disk-0');
waitpid($pid, 0);
is($?, 0);
qemu_io($scfg, 'vm-4-disk-0', 'read -P 3 1M 64k', 'read -P 2 8188k 4k');

my $before = join(' ', @{ image_names($scfg) });
like(fails(sub { import_file('now', 'vm-2-disk-0', 0) }), qr/volume 'vm-2-disk-0' already exists/);
cut('now', 'short', 8 + (4 << 20));
like(fails(sub { import_file('short', 'vm-5-disk-0', 0) }), qr/the data end before 8388608 bytes/);
cut('now', 'shorter', 5);
like(fails(sub { import_file('shorter', 'vm-5-disk-0', 0) }), qr/the data end before the size/);
like(fails(sub { export('none', 'vm-9-disk-0', 'raw+size') }), qr/vm-9-disk-0 does not exist/);
is(join(' ', @{ image_names($scfg) }), $before, 'nothing is left of failures');

# A size that is no multiple of 4 KiB.
open(my $odd, '>', "$dir/odd") or die $!;
print $odd pack('Q<', 5120), 'y' x 5120;
close($odd);
import_file('odd', 'vm-6-disk-0', 0);
is(scalar($plugin->volume_size_info($scfg, 'st', 'vm-6-disk-0')), 8192);
qemu_io($scfg, 'vm-6-disk-0', 'read -P 0x79 0 5k', 'read -P 0 5k 3k');

# qemu-img, by which Proxmox copies disks between machines.
$plugin->activate_volume('st', $scfg, $_, undef, {}) for 'vm-1-disk-0', 'vm-6-disk-0', 'vm-2-disk-0';
my $qemu_img = sub { PVE::Tools::run_command(['/usr/bin/qemu-img', map { clean($_) } @_], outfunc => sub { }, errfunc => sub { diag($_[0]) }) };
$plugin->volume_resize($scfg, 'st', 'vm-6-disk-0', 8 << 20, 0);
$qemu_img->('convert', '-n', '-f', 'raw', '-O', 'raw', scalar($plugin->path($scfg, 'vm-1-disk-0', 'st')), scalar($plugin->path($scfg, 'vm-6-disk-0', 'st')));
$qemu_img->('compare', json_name($scfg, 'vm-6-disk-0'), json_name($scfg, 'vm-2-disk-0'));
$plugin->deactivate_volume('st', $scfg, $_, undef, {}) for 'vm-1-disk-0', 'vm-6-disk-0', 'vm-2-disk-0';

$plugin->free_image('st', $scfg, $_->{volid} =~ s/^st://r) for @{ $plugin->list_images('st', $scfg, undef, undef, {}) };
is(join(' ', @{ image_names($scfg) }), '');
done_testing();
