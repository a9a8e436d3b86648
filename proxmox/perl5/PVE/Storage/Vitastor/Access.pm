package PVE::Storage::Vitastor::Access;

# The methods of the storage plugin by which machines reach their disks.
#
#   native   QEMU's own driver for Vitastor: patched QEMU and list of drivers
#   socket   an NBD server of this node on a unix socket, see Attach
#   ublk, vduse, nbd   a block device
#
# Containers always get a block device.
#
# Guarantee: path() and qemu_blockdev_options() name what activate_volume has
# made, and ask nobody for it.

use strict;
use warnings;

use PVE::Storage::Vitastor::Attach;
use PVE::Storage::Vitastor::CLI;

# Seconds for which QEMU keeps requests while an NBD server does not answer,
# and for which it tries to connect at the beginning.
use constant { RECONNECT_SECONDS => 300, OPEN_SECONDS => 30 };

# BLOCKDEV_API is the version of the interface in which QEMU gets its disks
# with -blockdev. Before it, nobody can tell QEMU to connect again.
use constant BLOCKDEV_API => 12;

# detected remembers what this node can do, as long as the process lives.
our %detected;

# mode is how a machine reaches its disks: native, socket or device; then the
# method of devices, if it is configured.
sub mode {
    my ($scfg, $vmid) = @_;
    my $wanted = $scfg->{vitastor_attach} // 'auto';
    $wanted = 'nbd' if $wanted eq 'auto' && $scfg->{vitastor_nbd};
    my $method = $wanted =~ /^(?:ublk|vduse|nbd)$/ ? $wanted : undef;
    return ('device', $method) if $method || is_container($vmid);
    return $wanted if $wanted ne 'auto';
    return 'native' if $detected{native} //= has_native();
    return 'socket' if api() >= BLOCKDEV_API;
    $detected{device} //= PVE::Storage::Vitastor::Attach::device_method() // '';
    return $detected{device} ? 'device' : 'socket';
}

sub api { return eval { PVE::Storage::APIVER() } // BLOCKDEV_API }

# is_container tells whether a guest is one.
sub is_container {
    my ($vmid) = @_;
    my $guests = eval { require PVE::Cluster; PVE::Cluster::get_vmlist() } // {};
    return ($guests->{ids}{$vmid}{type} // '') eq 'lxc';
}

# has_native tells whether QEMU has the driver, and Proxmox lets it be used:
# its list of allowed drivers is in PVE/Storage.pm.
sub has_native {
    return 0 if api() >= BLOCKDEV_API && !mentions($INC{'PVE/Storage.pm'});
    my @formats = eval {
        PVE::Storage::Vitastor::CLI::spawn([$PVE::Storage::Vitastor::CLI::PROGRAM{'qemu-img'}, '--help'], timeout => 10);
    };
    return (grep { /^Supported formats:.*\bvitastor\b/ } @formats) ? 1 : 0;
}

sub mentions {
    my ($file) = @_;
    open(my $source, '<', $file // return 0) or return 0;
    return scalar grep { /\bvitastor\b/ } <$source>;
}

# attachment is an image on this node.
sub attachment {
    my ($class, $storeid, $scfg, $image) = @_;
    return PVE::Storage::Vitastor::Attach->new($storeid, $scfg, $image);
}

sub attachment_of {
    my ($class, $storeid, $scfg, $volname, $snapname) = @_;
    return $class->attachment($storeid, $scfg, $class->image_name($scfg, $volname, $snapname));
}

# stop_using dies if somebody uses an image on this node.
sub stop_using {
    my ($class, $storeid, $scfg, $image) = @_;
    my $attachment = $class->attachment($storeid, $scfg, $image);
    $attachment->leave();
    $attachment->detach();
    return;
}

sub path {
    my ($class, $scfg, $volname, $storeid, $snapname) = @_;
    my ($vtype, undef, $vmid) = $class->parse_volname($volname);
    my $image = $class->image_name($scfg, $volname, $snapname);
    my ($mode) = mode($scfg, $vmid);
    my $attachment = $class->attachment($storeid, $scfg, $image);
    my $path
        = $mode eq 'native' ? native_path($scfg, $image)
        : $mode eq 'socket' ? 'nbd:unix:' . $attachment->socket_path() . ":exportname=$image"
        :                     $attachment->device_link();
    return wantarray ? ($path, $vmid, $vtype) : $path;
}

# native_options are those of QEMU's driver.
sub native_options {
    my ($scfg, $image) = @_;
    my %options = (image => $image);
    my %names = ('config-path' => 'config_path', 'etcd-host' => 'etcd_address', 'etcd-prefix' => 'etcd_prefix');
    for my $option (keys %names) {
        my $value = $scfg->{"vitastor_$names{$option}"};
        $options{$option} = $value if defined($value) && $value ne '';
    }
    return \%options;
}

# native_path is the file name for QEMU's driver: colons are escaped in values.
sub native_path {
    my ($scfg, $image) = @_;
    my $options = native_options($scfg, $image);
    return join(':', 'vitastor',
        map { my $name = $_ =~ s/-/_/r; "$name=" . ($options->{$_} =~ s/([:\\])/\\$1/gr) } sort keys %$options);
}

sub qemu_blockdev_options {
    my ($class, $scfg, $storeid, $volname, $machine_version, $options) = @_;
    my (undef, undef, $vmid) = $class->parse_volname($volname);
    my $image = $class->image_name($scfg, $volname, $options->{'snapshot-name'});
    my ($mode) = mode($scfg, $vmid);
    my $attachment = $class->attachment($storeid, $scfg, $image);
    return { driver => 'vitastor', %{ native_options($scfg, $image) } } if $mode eq 'native';
    return { driver => 'host_device', filename => $attachment->device_link() } if $mode eq 'device';
    return {
        driver => 'nbd',
        server => { type => 'unix', path => $attachment->socket_path() },
        export => $image,
        'reconnect-delay' => RECONNECT_SECONDS,
        'open-timeout' => OPEN_SECONDS,
    };
}

sub activate_storage { return 1 }

sub deactivate_storage { return 1 }

# activate_volume first does what is needed almost always. An image that is not
# there may have lost its name to an interrupted rollback.
sub activate_volume {
    my ($class, $storeid, $scfg, $volname, $snapname, $cache, $hints) = @_;
    return 1 if eval { $class->activate($storeid, $scfg, $volname, $snapname); 1 };
    my $problem = $@;
    $class->undo_rollback($scfg, $volname) or die $problem;
    $class->activate($storeid, $scfg, $volname, $snapname);
    return 1;
}

sub activate {
    my ($class, $storeid, $scfg, $volname, $snapname) = @_;
    my (undef, undef, $vmid) = $class->parse_volname($volname);
    my ($mode, $method) = mode($scfg, $vmid);
    my $attachment = $class->attachment_of($storeid, $scfg, $volname, $snapname);
    return $attachment->serve() if $mode eq 'socket';
    return $attachment->attach($method) if $mode eq 'device';
    return PVE::Storage::Vitastor::CLI->new($scfg)->image($class->image_name($scfg, $volname, $snapname));
}

sub deactivate_volume {
    my ($class, $storeid, $scfg, $volname, $snapname, $cache) = @_;
    $class->stop_using($storeid, $scfg, $class->image_name($scfg, $volname, $snapname));
    return 1;
}

# map_volume always makes a block device: who calls it needs one.
sub map_volume {
    my ($class, $storeid, $scfg, $volname, $snapname, $hints) = @_;
    my (undef, undef, $vmid) = $class->parse_volname($volname);
    my (undef, $method) = mode($scfg, $vmid);
    return $class->attachment_of($storeid, $scfg, $volname, $snapname)->attach($method);
}

sub unmap_volume {
    my ($class, $storeid, $scfg, $volname, $snapname) = @_;
    $class->attachment_of($storeid, $scfg, $volname, $snapname)->detach();
    return 1;
}

1;
