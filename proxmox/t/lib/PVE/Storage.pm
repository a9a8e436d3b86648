package PVE::Storage;

# Stand-in for tests, written from the documented contract of Proxmox VE: the
# version of the plugin interface, and the drivers that -blockdev may use.

use strict;
use warnings;

our $VERSION_OF_API = 15;
our $AGE_OF_API = 6;

sub APIVER { return $VERSION_OF_API }
sub APIAGE { return $AGE_OF_API }

# accepts tells whether this host would load a plugin.
sub accepts {
    my ($plugin) = @_;
    my $version = $plugin->api();
    return $version <= APIVER() && $version >= APIVER() - APIAGE();
}

my %allowed = (
    file => [qw(filename)],
    host_device => [qw(filename)],
    nbd => [qw(server export reconnect-delay open-timeout)],
    rbd => [qw(pool image conf)],
);

sub qemu_blockdev_options {
    my ($plugin, @args) = @_;
    my $options = $plugin->qemu_blockdev_options(@args);
    my %known = map { ($_ => 1) } 'driver', @{ $allowed{ $options->{driver} } // die "driver '$options->{driver}' is not allowed\n" };
    $known{$_} || die "option '$_' of driver '$options->{driver}' is not allowed\n" for keys %$options;
    return $options;
}

1;
