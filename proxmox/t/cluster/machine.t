#!/usr/bin/perl -T
# A running QEMU on a disk: it gets a new size, a new server, a snapshot.

use strict;
use warnings;

use Test::More;
use Time::HiRes ();

use PVE::QemuServer::Monitor;

use Rig qw($plugin $dir clean fails storage image_names with_cluster);

with_cluster() or plan(skip_all => 'VITASTOR_BIN and VITASTOR_CONFIG name no cluster');
my $qemu = '/usr/bin/qemu-system-x86_64';
-x $qemu or plan(skip_all => "$qemu is not installed (qemu-system-x86)");
my $scfg = storage();
my $volume = 'vm-100-disk-0';
$PVE::Storage::Vitastor::Attach::USERS_SECONDS = 0.2;

$plugin->alloc_image('st', $scfg, 100, 'raw', $volume, 8 << 10);
$plugin->activate_volume('st', $scfg, $volume, undef, {});

# As Proxmox 9 does: the disk below a node for its format and one for throttling.
my $options = PVE::Storage::qemu_blockdev_options($plugin, $scfg, 'st', $volume, 'pc', {});
my $blockdev = PVE::Storage::Vitastor::CLI::to_utf8({
    driver => 'throttle', 'node-name' => 'drive-scsi0', 'throttle-group' => 't',
    file => { driver => 'raw', 'node-name' => 'fmt', file => { %$options, 'node-name' => 'file', cache => { direct => JSON::PP::true() } } },
});
my $socket = "$dir/qmp";
$PVE::QemuServer::Monitor::SOCKET{100} = $socket;
my $pid = fork() // die $!;
if (!$pid) {
    open(STDOUT, '>', "$dir/qemu") && exec({ $qemu } $qemu, '-machine', 'none', '-nodefaults', '-display', 'none', '-S',
        '-object', 'throttle-group,id=t', '-blockdev', clean($blockdev), '-qmp', "unix:$socket,server=on,wait=off")
        or POSIX::_exit(127);
}
END { kill('KILL', $pid) if $pid }

PVE::Storage::Vitastor::Attach::wait_for(20, sub { -S $socket }) or die "QEMU does not start\n";

sub monitor { return PVE::QemuServer::Monitor::mon_cmd(100, @_) }

# io does I/O in the machine. What it prints goes to the output of QEMU.
sub io {
    my ($command) = @_;
    truncate("$dir/qemu", 0);
    my $out = monitor('human-monitor-command', 'command-line' => qq(qemu-io drive-scsi0 "$command"));
    $out .= PVE::Tools::file_get_contents("$dir/qemu");
    $out =~ s/\0//g;
    return ok($out !~ /fail|error/i && $out =~ /ops;/, $command) || diag($out);
}

sub size {
    my ($node) = grep { $_->{'node-name'} eq 'drive-scsi0' } @{ monitor('query-named-block-nodes') };
    return $node->{image}{'virtual-size'};
}

io('write -P 1 0 1M');
is(size(), 8 << 20);

subtest 'resized while it runs' => sub {
    my @warnings;
    local $SIG{__WARN__} = sub { push @warnings, @_ };
    $plugin->volume_resize($scfg, 'st', $volume, 16 << 20, 1);
    # What Proxmox does then.
    monitor('block_resize', 'node-name' => 'drive-scsi0', size => 16 << 20);
    is(size(), 16 << 20);
    io('write -P 2 15M 1M');
    io('read -P 1 0 1M');
    is_deeply(\@warnings, []);
};

subtest 'the server is killed' => sub {
    my ($file) = map { clean($_) } glob("$dir/run/st/*.pid");
    open(my $in, '<', $file) or die $!;
    kill('KILL', clean(<$in>));
    # systemd would start it again.
    Time::HiRes::sleep(0.1);
    $plugin->activate_volume('st', $scfg, $volume, undef, {});
    io('read -P 2 15M 1M');
    io('write -P 3 0 1M');
};

subtest 'a snapshot while it runs' => sub {
    is($plugin->volume_qemu_snapshot_method('st', $scfg, $volume), 'storage');
    $plugin->volume_snapshot($scfg, 'st', $volume, 's');
    io('write -P 4 0 1M');
    io('read -P 4 0 1M');
    $plugin->volume_snapshot_delete($scfg, 'st', $volume, 's', 1);
    io('read -P 4 0 1M');
    io('read -P 2 15M 1M');
};

subtest 'a running machine keeps its disk' => sub {
    my @used = (
        sub { $plugin->deactivate_volume('st', $scfg, $volume) }, sub { $plugin->free_image('st', $scfg, $volume) },
        sub { $plugin->create_base('st', $scfg, $volume) }, sub { $plugin->rename_volume($scfg, 'st', $volume, 5) },
    );
    like(fails($_), qr/is in use: 1 connections/) for @used;
    io('read -P 4 0 1M');
};

subtest 'when nobody tells QEMU' => sub {
    my @warnings;
    local $SIG{__WARN__} = sub { push @warnings, @_ };
    local $PVE::QemuServer::Monitor::SOCKET{100} = "$dir/none";
    $plugin->volume_resize($scfg, 'st', $volume, 24 << 20, 1);
    like("@warnings", qr/machine 100 will see the new size of $volume when it is started again: qmp/);
};

monitor('quit');
waitpid($pid, 0);
undef $pid;
$plugin->deactivate_volume('st', $scfg, $volume);
$plugin->free_image('st', $scfg, $volume);
is(join(' ', @{ image_names($scfg) }), '');
done_testing();
