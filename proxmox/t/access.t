#!/usr/bin/perl -T
# How guests reach their disks on hosts of different ages.

use strict;
use warnings;

use Test::More;

use Rig qw($plugin $dir fails program);

my %base = (vitastor_pool => 'p', vitastor_config_path => '/etc/v:1.conf', vitastor_etcd_address => '10.0.0.1:2379');
my $volume = 'base-1-disk-0/vm-100-disk-0';
my $device = "$dir/dev/st/pve_vm-100-disk-0";
my $socket = "$dir/run/st/pve_vm-100-disk-0.sock";

# seen is how a storage shows a volume: path and options of -blockdev.
sub seen {
    my ($config, $snap) = @_;
    %PVE::Storage::Vitastor::Access::detected = ();
    my $scfg = { %base, %$config };
    my $path = $plugin->path($scfg, $volume, 'st', $snap);
    my @all = $plugin->path($scfg, $volume, 'st', $snap);
    is_deeply(\@all, [$path, 100, 'images']);
    return ($path, $plugin->qemu_blockdev_options($scfg, 'st', $volume, '10.0+pve0', $snap ? { 'snapshot-name' => $snap } : {}));
}

sub is_socket {
    my ($path, $options) = @_;
    is($path, "nbd:unix:$socket:exportname=pve/vm-100-disk-0");
    is_deeply($options, {
        driver => 'nbd', server => { type => 'unix', path => $socket }, export => 'pve/vm-100-disk-0',
        'reconnect-delay' => 300, 'open-timeout' => 30,
    });
}

sub is_device {
    my ($path, $options) = @_;
    is($path, $device);
    is_deeply($options, { driver => 'host_device', filename => $device });
}

sub is_native {
    my ($path, $options) = @_;
    is($path, 'vitastor:config_path=/etc/v\\:1.conf:etcd_host=10.0.0.1\\:2379:image=pve/vm-100-disk-0');
    is_deeply($options, {
        driver => 'vitastor', image => 'pve/vm-100-disk-0', 'config-path' => '/etc/v:1.conf', 'etcd-host' => '10.0.0.1:2379',
    });
}

subtest 'what is wanted is done' => sub {
    for my $api (10 .. 15) {
        local $PVE::Storage::VERSION_OF_API = $api;
        is_socket(seen({ vitastor_attach => 'socket' }));
        is_native(seen({ vitastor_attach => 'native' }));
        is_device(seen({ vitastor_attach => $_ })) for qw(ublk vduse nbd);
        is_device(seen({ vitastor_nbd => 1 }));
    }
};

subtest 'automatically, since version 12: the socket' => sub {
    for my $api (12 .. 15) {
        local $PVE::Storage::VERSION_OF_API = $api;
        is_socket(seen({}));
    }
};

subtest 'automatically, before: a device if the kernel has some' => sub {
    for my $api (10, 11) {
        local $PVE::Storage::VERSION_OF_API = $api;
        is_socket(seen({}));
        program('vduse', 'exit 0');
        program('modprobe', 'test "$2" = vduse');
        is_device(seen({}));
        program('modprobe', 'echo "modprobe: FATAL: Module $2 not found" >&2; exit 1');
        is_socket(seen({}));
    }
};

subtest 'native if both QEMU and Proxmox know the driver' => sub {
    my ($plain, $patched) = map { my $file = "$dir/$_.pm"; open(my $out, '>', $file) or die $!; print $out "# $_\n"; $file } qw(plain vitastor);
    for my $case ([$plain, 'raw vitastor', 0], [$patched, 'raw rbd', 0], [$patched, 'raw vitastor vmdk', 1]) {
        my ($file, $formats, $native) = @$case;
        local $INC{'PVE/Storage.pm'} = $file;
        program('qemu-img', "echo 'Supported formats: $formats'");
        my @seen = seen({});
        $native ? is_native(@seen) : is_socket(@seen);
    }
    # An old Proxmox has no list.
    local $PVE::Storage::VERSION_OF_API = 11;
    local $INC{'PVE/Storage.pm'} = $plain;
    is_native(seen({}));
    program('qemu-img', 'exit 1');
};

subtest 'Proxmox lets unpatched ways pass' => sub {
    for my $attach (qw(socket ublk)) {
        ok(PVE::Storage::qemu_blockdev_options($plugin, { %base, vitastor_attach => $attach }, 'st', $volume, 'pc', {}));
    }
    like(fails(sub { PVE::Storage::qemu_blockdev_options($plugin, { %base, vitastor_attach => 'native' }, 'st', $volume, 'pc', {}) }),
        qr/'vitastor' is not allowed/);
};

subtest 'snapshots' => sub {
    my ($path, $options) = seen({ vitastor_attach => 'socket' }, 'snap');
    is($path, "nbd:unix:$dir/run/st/pve_vm-100-disk-0\@snap.sock:exportname=pve/vm-100-disk-0\@snap");
    is($options->{export}, 'pve/vm-100-disk-0@snap');
    is((seen({ vitastor_attach => 'native' }, 'snap'))[1]{image}, 'pve/vm-100-disk-0@snap');
    is((seen({ vitastor_nbd => 1 }, 'snap'))[0], "$device\@snap");
};

subtest 'containers have devices' => sub {
    local $PVE::Cluster::GUESTS{100} = 'lxc';
    is_device(seen({}));
    is_device(seen({ vitastor_attach => 'native' }));
};

subtest 'sockets with long names' => sub {
    my $scfg = { %base, vitastor_attach => 'socket', vitastor_prefix => 'x' x 90 };
    my $path = $plugin->qemu_blockdev_options($scfg, 'st', $volume, 'pc', {})->{server}{path};
    cmp_ok(length($path), '<', 108);
    isnt($path, $plugin->qemu_blockdev_options($scfg, 'other', $volume, 'pc', {})->{server}{path});
};

done_testing();
