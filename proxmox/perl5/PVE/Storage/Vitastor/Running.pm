package PVE::Storage::Vitastor::Running;

# Tells those who use an image that it has grown.
#
# Devices follow by themselves. A client of NBD learns the size when it
# connects: the server is started again, and QEMU, which waits for it
# (reconnect-delay), is made to read something so that it connects at once. Then
# Proxmox tells QEMU the new size, and QEMU finds it true.
#
# Guarantee: requests of the machine wait meanwhile, and none fails.

use strict;
use warnings;

use PVE::Storage::Vitastor::CLI;

# follow_size is called when the image has the size.
sub follow_size {
    my ($attachment, $volname, $bytes, $running) = @_;
    if ($attachment->is_attached()) {
        my $link = $attachment->device_link();
        $attachment->wait_size($bytes)
            or die "the image has grown, but $link will only after the volume was deactivated (stop the guest)\n";
    }
    return if !$running || !-S $attachment->socket_path() || !$attachment->users();
    $attachment->restart() or return;
    my ($vmid) = $volname =~ m!(?:^|/)(?:vm|base)-(\d+)-[^/]*$!;
    eval { reconnect($vmid, $attachment->socket_path()) };
    warn "machine $vmid will see the new size of $volname when it is started again: $@" if $@;
    return;
}

# reconnect makes QEMU read from all its nodes on a socket.
sub reconnect {
    my ($vmid, $socket) = @_;
    require PVE::QemuServer::Monitor;
    my $nodes = PVE::QemuServer::Monitor::mon_cmd($vmid, 'query-named-block-nodes');
    for my $node (grep { $_->{drv} eq 'nbd' && index($_->{file}, $socket) >= 0 } @$nodes) {
        PVE::QemuServer::Monitor::mon_cmd($vmid, 'human-monitor-command',
            'command-line' => qq(qemu-io $node->{'node-name'} "read 0 512"));
    }
    return;
}

1;
