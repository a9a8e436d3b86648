package PVE::Storage::Vitastor::Attach;

# Makes images usable on this node: an NBD server on a unix socket for each
# volume (for QEMU), or a block device (for containers, and for QEMU if wanted).
#
#   /run/vitastor/pve/STORAGE/IMAGE.sock    the server; .log what it says, .pid
#   /dev/vitastor-pve/STORAGE/IMAGE         a link to the device
#
# Both names follow from the volume alone, so that PVE's path() asks nobody.
#
# Guarantee: starting and stopping may be repeated at any time, also after being
# killed half-way; what somebody still uses is not stopped.
#
# Concurrency: processes of one node exclude each other by a lock for each image.

use strict;
use warnings;

use Digest::SHA;
use Fcntl qw(:flock O_EXCL O_RDONLY);
use File::Path ();
use IO::Socket::UNIX;
use POSIX ();
use Time::HiRes;

use PVE::Storage::Vitastor::CLI;

our $RUN_DIR = '/run/vitastor/pve';
our $DEVICE_DIR = '/dev/vitastor-pve';
our $SYSTEMD_DIR = '/run/systemd/system';

# Seconds until a server must have begun or ended. It flushes at the end.
our $SERVER_SECONDS = 60;

# Seconds in which those who have closed their connections disappear.
our $USERS_SECONDS = 2;

# SOCKET_PATH_MAX is a limit of the kernel, with the final zero.
use constant SOCKET_PATH_MAX => 108;

# NBD_SECONDS is for how long requests of an NBD device wait for another process.
use constant NBD_SECONDS => 300;

# new: an image of a storage, IMAGE@SNAPSHOT included.
sub new {
    my ($class, $storeid, $scfg, $image) = @_;
    my $label = $image =~ s!/!_!gr;
    my $base = "$RUN_DIR/$storeid/$label";
    if (length("$base.sock") >= SOCKET_PATH_MAX) {
        $base = "$RUN_DIR/" . substr(Digest::SHA::sha1_hex("$storeid/$image"), 0, 24);
    }
    return bless {
        storeid => $storeid,
        scfg => $scfg,
        image => $image,
        options => [PVE::Storage::Vitastor::CLI::client_options($scfg)],
        base => PVE::Storage::Vitastor::CLI::untaint($base),
        link => PVE::Storage::Vitastor::CLI::untaint("$DEVICE_DIR/$storeid/$label"),
    }, $class;
}

sub socket_path { return "$_[0]{base}.sock" }
sub device_link { return $_[0]{link} }
sub program { return $PVE::Storage::Vitastor::CLI::PROGRAM{ $_[0] } }
sub spawn { return PVE::Storage::Vitastor::CLI::spawn(@_) }

# locked runs code while no other process of this node changes the same image.
sub locked {
    my ($self, $code) = @_;
    my ($dir) = $self->{base} =~ m!^(.*)/!;
    File::Path::make_path($dir, { mode => 0700 });
    open(my $lock, '>>', "$self->{base}.lock") or die "cannot open $self->{base}.lock: $!\n";
    flock($lock, LOCK_EX) or die "cannot lock $self->{base}.lock: $!\n";
    return $code->();
}

# wait_for waits for a condition.
sub wait_for {
    my ($seconds, $condition) = @_;
    my $end = Time::HiRes::time() + $seconds;
    while (1) {
        my $value = $condition->();
        return $value if $value;
        return if Time::HiRes::time() > $end;
        Time::HiRes::sleep(0.02);
    }
}

# ---- the NBD server

# serve starts the server unless it answers.
sub serve {
    my ($self) = @_;
    return $self->locked(sub {
        return if $self->answers();
        $self->end_server();
        $self->begin_server();
        return;
    });
}

# answers tells whether the server greets a client.
sub answers {
    my ($self) = @_;
    my $client = IO::Socket::UNIX->new(Peer => $self->socket_path()) or return 0;
    my $greeting = '';
    my $readable = '';
    vec($readable, fileno($client), 1) = 1;
    sysread($client, $greeting, 8) if select($readable, undef, undef, 5);
    return $greeting eq 'NBDMAGIC';
}

# users counts the connections to the server.
sub users {
    my ($self) = @_;
    open(my $sockets, '<', '/proc/net/unix') or die "/proc/net/unix: $!\n";
    my $path = $self->socket_path();
    # The sixth column is 03 for a connection, 02 for one that the server has not
    # accepted yet, 01 for the listening socket.
    return scalar grep { m!^\S+: \S+ \S+ \S+ \S+ 0[23] +\d+ \Q$path\E$! } <$sockets>;
}

# unit is the name of the service for a way of access.
sub unit {
    my ($self, $kind) = @_;
    return "vitastor-pve-$kind-" . substr(Digest::SHA::sha1_hex($self->{base}), 0, 16) . '.service';
}

sub stop_unit {
    my ($unit) = @_;
    return if eval { spawn([program('systemctl'), 'stop', $unit]); 1 };
    die $@ if $@ !~ /not loaded|not found/;
    return;
}

# systemd_run begins a command that makes something which guests need: when the
# host is shut down it ends after them, and memory is taken from others first.
sub systemd_run {
    my ($self, @options) = @_;
    return (
        program('systemd-run'), '--quiet', '--collect', "--description=Vitastor image $self->{image}",
        '--property=Before=pve-guests.service pve-ha-lrm.service', '--property=After=network-online.target',
        '--property=OOMScoreAdjust=-900', @options,
    );
}

sub begin_server {
    my ($self) = @_;
    my $log = "$self->{base}.log";
    unlink($log);
    my @command = (
        program('nbd'), 'serve', '--image', $self->{image}, '--socket', $self->socket_path(),
        '--pidfile', "$self->{base}.pid", @{ $self->{options} },
    );
    die "$command[0] is not installed: apt install vitastor-client\n" if !-x $command[0];
    my $alive;
    if (-d $SYSTEMD_DIR) {
        # Not a child of ours: it must survive a restart of pvedaemon.
        spawn([
            $self->systemd_run('--unit=' . $self->unit('socket')),
            (map { "--property=$_" } qw(Restart=always RestartSec=1 StartLimitIntervalSec=0), "StandardError=append:$log"),
            @command,
        ]);
        $alive = sub { 1 };
    } else {
        my $pid = background($log, @command);
        $alive = sub { kill(0, $pid) };
    }
    my $state = wait_for($SERVER_SECONDS, sub { $self->answers() ? 'ready' : $self->refused($alive) });
    return if defined($state) && $state eq 'ready';
    my $said = $self->said();
    $self->end_server();
    die "the NBD server of image $self->{image} does not start: $said\n";
}

# refused tells whether the server has given up.
sub refused {
    my ($self, $alive) = @_;
    return 'failed' if !$alive->();
    open(my $log, '<', "$self->{base}.log") or return;
    return (grep { /^vitastor-nbd: / } <$log>) ? 'failed' : undef;
}

# said is what the server has logged.
sub said {
    my ($self, $file) = @_;
    open(my $log, '<', $file // "$self->{base}.log") or return 'it says nothing';
    my @lines = grep { /\S/ } <$log>;
    chomp @lines;
    my ($end) = grep { s/^vitastor-\w+: // } reverse @lines;
    return $end if defined($end);
    my @last = @lines > 3 ? @lines[-3 .. -1] : @lines;
    return @last ? join('; ', @last) : 'it says nothing';
}

# background runs a program that outlives us, and returns its number.
sub background {
    my ($log, @command) = @_;
    @command = map { PVE::Storage::Vitastor::CLI::untaint($_) } @command;
    pipe(my $reader, my $writer) or die "pipe: $!\n";
    my $child = fork() // die "fork: $!\n";
    if (!$child) {
        my $grandchild = fork();
        if (!defined($grandchild) || $grandchild) {
            syswrite($writer, defined($grandchild) ? "$grandchild\n" : "\n");
            POSIX::_exit(0);
        }
        eval {
            POSIX::setsid();
            open(STDIN, '<', '/dev/null') && open(STDOUT, '>', '/dev/null') && open(STDERR, '>>', $log) or die;
            POSIX::close($_) for 3 .. 255;
            exec { $command[0] } @command;
        };
        POSIX::_exit(127);
    }
    close($writer);
    my $line = <$reader>;
    waitpid($child, 0);
    my ($pid) = ($line // '') =~ /^(\d+)$/ or die "fork: no process\n";
    return $pid;
}

# server_pid is the number of a process that serves our socket.
sub server_pid {
    my ($self) = @_;
    open(my $file, '<', "$self->{base}.pid") or return;
    my ($pid) = (<$file> // '') =~ /^(\d+)/ or return;
    open(my $proc, '<', "/proc/$pid/cmdline") or return;
    my $line = do { local $/; <$proc> } // '';
    return index($line, $self->socket_path()) >= 0 ? $pid : undef;
}

# end_server ends whatever serves the socket. It is certain that nobody uses it.
sub end_server {
    my ($self) = @_;
    stop_unit($self->unit('socket')) if -d $SYSTEMD_DIR;
    if (my $pid = $self->server_pid()) {
        kill('TERM', $pid);
        wait_for($SERVER_SECONDS, sub { !$self->server_pid() })
            or die "the NBD server of image $self->{image} (process $pid) does not end: $self->{base}.log says why\n";
    }
    unlink($self->socket_path(), "$self->{base}.pid");
    return;
}

# leave ends the server, unless it is used.
sub leave {
    my ($self) = @_;
    return if !-e $self->socket_path() && !-e "$self->{base}.pid";
    return $self->locked(sub {
        wait_for($USERS_SECONDS, sub { !$self->users() })
            or die "image $self->{image} is in use: " . $self->users() . ' connections to ' . $self->socket_path() . "\n";
        $self->end_server();
        unlink("$self->{base}.log");
        return;
    });
}

# restart gives clients a new size: they connect again, see reconnect-delay.
# It tells whether there was a server.
sub restart {
    my ($self) = @_;
    return $self->locked(sub {
        return 0 if !$self->answers();
        $self->end_server();
        $self->begin_server();
        return 1;
    });
}

# ---- the block device

# METHODS of devices, best first: the modules of the kernel, and the file that
# shows that they are loaded.
my @METHODS = (
    { name => 'vduse', modules => [qw(vduse virtio-vdpa)], file => '/dev/vduse/control' },
    { name => 'ublk', modules => ['ublk_drv'], file => '/dev/ublk-control' },
    { name => 'nbd', modules => ['nbd'], file => '/sys/module/nbd' },
);

# usable tells whether this node can make such devices.
sub usable {
    my ($method) = @_;
    return 0 if !-x program($method->{name});
    return 1 if -e $method->{file};
    return 0 if !-x program('modprobe');
    return eval { spawn([program('modprobe'), '-a', @{ $method->{modules} }], timeout => 20); 1 } ? 1 : 0;
}

# device_method is the wanted one, or the best of this node; undef = none.
sub device_method {
    my ($wanted) = @_;
    return $wanted if $wanted;
    my ($best) = grep { usable($_) } @METHODS;
    return $best ? $best->{name} : undef;
}

# mapped finds the devices of the image: hashes of what `ls` says, and method
# and device. Those whose server has died are dead.
sub mapped {
    my ($self) = @_;
    my @found;
    for my $method (map { $_->{name} } @METHODS) {
        next if !-x program($method);
        my $all = eval { PVE::Storage::Vitastor::CLI::decode(join('', spawn([program($method), 'ls', '--json'], timeout => 20))) };
        next if ref($all) ne 'HASH';
        for my $device (sort keys %$all) {
            next if !$self->ours($method, $all->{$device});
            push @found, { %{ $all->{$device} }, device => PVE::Storage::Vitastor::CLI::untaint($device), method => $method };
        }
    }
    return @found;
}

# ours tells whether a device is of this image of this cluster. VDUSE has names
# for devices, of which ours tell it; the others repeat their options.
sub ours {
    my ($self, $method, $entry) = @_;
    return ($entry->{name} // '') eq $self->vduse_name() if $method eq 'vduse';
    return 0 if ($entry->{image} // $entry->{last_image} // '') ne $self->{image};
    my %wanted = @{ $self->{options} };
    for my $name (qw(config_path etcd_address etcd_prefix)) {
        return 0 if defined($entry->{$name}) && $entry->{$name} ne ($wanted{"--$name"} // $entry->{$name});
    }
    return 1;
}

sub vduse_name {
    my ($self) = @_;
    return 'pve-' . substr(Digest::SHA::sha1_hex("$self->{storeid}/$self->{image}"), 0, 12);
}

# attach makes a device unless there is one, and returns the link to it.
sub attach {
    my ($self, $method) = @_;
    return $self->locked(sub {
        # A link to nothing says that there may be a device, should we be killed.
        $self->point('being-made') if !-l $self->{link};
        my ($there) = $self->mapped();
        $self->point($there && !$there->{dead} ? $there->{device} : $self->make_device($method, $there));
        return $self->{link};
    });
}

# point sets the link.
sub point {
    my ($self, $target) = @_;
    return if (readlink($self->{link}) // '') eq $target;
    my ($dir) = $self->{link} =~ m!^(.*)/!;
    File::Path::make_path($dir);
    my $new = "$self->{link}.new";
    unlink($new);
    symlink($target, $new) && rename($new, $self->{link}) or die "cannot make the link $self->{link}: $!\n";
    return;
}

# make_device runs map, also to serve a device again whose server has died.
sub make_device {
    my ($self, $wanted, $dead) = @_;
    my $method = $dead ? $dead->{method} : device_method($wanted);
    die "image $self->{image} needs a block device, and this node can make none: it needs one of the kernel modules "
        . join(', ', map { $_->{modules}[0] } @METHODS) . ", and vitastor-client\n" if !$method;
    return $self->make_nbd() if $method eq 'nbd';
    # If there is the device already, map goes on with it.
    my @name = $method eq 'vduse' ? ('--name', $self->vduse_name()) : ();
    my @map = (program($method), 'map', '--image', $self->{image}, @name, @{ $self->{options} });
    return $self->make_by_systemd($method, @map) if -d $SYSTEMD_DIR;
    return device_of($method, spawn(\@map));
}

sub device_of {
    my ($method, @out) = @_;
    my ($device) = map { m!^(/dev/\S+)! ? $1 : () } @out;
    return $device // die "vitastor-$method map: it says no device\n";
}

# make_by_systemd lets systemd run map again when the server dies.
sub make_by_systemd {
    my ($self, $method, @map) = @_;
    my ($unit, $log, $pid) = ($self->unit($method), "$self->{base}.device.log", "$self->{base}.device.pid");
    stop_unit($unit);
    unlink($log);
    my @properties = ('Type=forking', "PIDFile=$pid", qw(KillMode=mixed Restart=on-failure RestartSec=1 StartLimitIntervalSec=0), "StandardError=append:$log");
    eval { spawn([$self->systemd_run("--unit=$unit"), (map { "--property=$_" } @properties), @map, '--pidfile', $pid, '--logfile', $log]) };
    my $problem = $@;
    my ($there) = grep { $_->{method} eq $method && !$_->{dead} } $self->mapped();
    return $there->{device} if $there;
    my $said = $self->said($log);
    stop_unit($unit);
    die "vitastor-$method: " . (-s $log || !$problem ? "$said\n" : $problem);
}

# make_nbd uses netlink, so that requests wait when the process of a device has
# died. The device to which the link points is given another process.
sub make_nbd {
    my ($self) = @_;
    my ($there) = (readlink($self->{link}) // '') =~ m!^/dev/(nbd\d+)$!;
    my @scope = -d $SYSTEMD_DIR ? $self->systemd_run('--scope') : ();
    my @options = ('--image', $self->{image}, '--nbd_conn_timeout', NBD_SECONDS, @{ $self->{options} });
    if ($there && sectors($there)) {
        my $revived = eval { device_of('nbd', spawn([@scope, program('nbd'), 'netlink-revive', "/dev/$there", @options])) };
        return $revived if $revived;
    }
    return device_of('nbd', spawn([@scope, program('nbd'), 'netlink-map', @options]));
}

# sectors is the size of a block device; 0 = it is not in use.
sub sectors {
    my ($name) = @_;
    open(my $file, '<', "/sys/class/block/$name/size") or return 0;
    return <$file> + 0;
}

# in_use tells whether a device is mounted or otherwise claimed, or some process
# (such as QEMU) has it open. NBD and ublk would take it away all the same.
sub in_use {
    my ($device) = @_;
    sysopen(my $handle, $device, O_RDONLY | O_EXCL) or return $!{EBUSY};
    close($handle);
    return scalar grep { (readlink($_) // '') eq $device } glob('/proc/[0-9]*/fd/*');
}

# detach removes the devices of the image, unless they are used.
sub detach {
    my ($self) = @_;
    return if !-l $self->{link};
    return $self->locked(sub {
        for my $found ($self->mapped()) {
            die "image $self->{image} is in use: $found->{device}\n" if in_use($found->{device});
            my $unmap = ($found->{interface} // '') eq 'netlink' ? 'netlink-unmap' : 'unmap';
            spawn([program($found->{method}), $unmap, $found->{device}]);
            stop_unit($self->unit($found->{method})) if -d $SYSTEMD_DIR;
        }
        unlink($self->{link});
        return;
    });
}

# is_attached tells whether there is a device, without asking anybody.
sub is_attached { return -e $_[0]{link} }

# wait_size waits until the device has so many bytes.
sub wait_size {
    my ($self, $bytes) = @_;
    my ($name) = (readlink($self->{link}) // '') =~ m!([^/]+)$! or return 1;
    return 1 if !-e "/sys/class/block/$name";
    return wait_for(10, sub { sectors($name) * 512 >= $bytes });
}

1;
