package PVE::Cluster;

# Stand-in for tests: the list of guests of the cluster.

use strict;
use warnings;

our %GUESTS; # number => qemu or lxc

sub get_vmlist {
    return { ids => { map { ($_ => { type => $GUESTS{$_} }) } keys %GUESTS } };
}

1;
