package PVE::QemuServer::Monitor;

# Stand-in for tests: commands to a running QEMU on its QMP socket.

use strict;
use warnings;

use IO::Socket::UNIX;
use JSON::PP;

our %SOCKET; # of machines

sub mon_cmd {
    my ($vmid, $command, %arguments) = @_;
    my $qmp = IO::Socket::UNIX->new(Peer => $SOCKET{$vmid} // die "machine $vmid does not run\n") or die "qmp: $!\n";
    <$qmp>;
    call($qmp, 'qmp_capabilities', {});
    return call($qmp, $command, \%arguments);
}

sub call {
    my ($qmp, $command, $arguments) = @_;
    print $qmp encode_json({ execute => $command, arguments => $arguments }), "\n";
    $qmp->flush();
    while (my $line = <$qmp>) {
        my $answer = decode_json($line);
        die "$command: $answer->{error}{desc}\n" if $answer->{error};
        return $answer->{return} if exists $answer->{return};
    }
    die "$command: no answer\n";
}

1;
