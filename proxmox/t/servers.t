#!/usr/bin/perl -T
# NBD servers of this node: with systemd and without, by programs that pretend.

use strict;
use warnings;

use IO::Socket::UNIX;
use Test::More;
use Time::HiRes ();

use Rig qw($plugin $dir clean fails program);

my $volume = 'vm-100-disk-0';
my $scfg = { vitastor_pool => 'p', vitastor_attach => 'socket' };
my $socket = "$dir/run/st/pve_$volume.sock";
program('cli', 'echo "[]"');

# A server that greets, and ends with SIGTERM.
my $perl = $^X =~ m!^(/.*)$! ? $1 : '/usr/bin/perl';
sub server {
    my ($more) = @_;
    return program('nbd', <<"EOS");
echo "\$@" >> $dir/nbd-calls
$more
exec $perl -MIO::Socket::UNIX -e '
    my %o = \@ARGV[1..\$#ARGV];
    my \$s = IO::Socket::UNIX->new(Local => \$o{"--socket"}, Listen => 5) or die;
    open(my \$p, ">", \$o{"--pidfile"}); print \$p \$\$; close(\$p);
    \$SIG{CHLD} = "IGNORE";
    while (my \$c = \$s->accept()) { fork() or do { close(\$s); syswrite(\$c, "NBDMAGIC"); sysread(\$c, my \$b, 1); exit } }
' -- "\$@"
EOS
}

sub starts { open(my $in, '<', "$dir/nbd-calls") or return 0; return scalar(my @all = <$in>) }

subtest 'started once, ended once' => sub {
    server('');
    $plugin->activate_volume('st', $scfg, $volume) for 1, 2;
    ok(-S $socket);
    is(starts(), 1);
    $plugin->deactivate_volume('st', $scfg, $volume) for 1, 2;
    ok(!-e $socket);
    is(join(' ', map { m!([^/]+)$! } glob("$dir/run/st/*")), "pve_$volume.lock");
};

subtest 'who is killed is started again' => sub {
    $plugin->activate_volume('st', $scfg, $volume);
    open(my $file, '<', "$dir/run/st/pve_$volume.pid") or die $!;
    kill('KILL', clean(<$file>));
    Time::HiRes::sleep(0.2);
    $plugin->activate_volume('st', $scfg, $volume);
    is(starts(), 3);
};

subtest 'what is used is not ended' => sub {
    my $client = IO::Socket::UNIX->new(Peer => $socket) or die $!;
    like(fails(sub { $plugin->deactivate_volume('st', $scfg, $volume) }), qr/image pve\/$volume is in use: \d+ connections/);
    $client->close();
    ok(-S $socket);
};

subtest 'two at once' => sub {
    my $before = starts();
    my @children = map { my $pid = fork(); if (!$pid) { $plugin->activate_volume('st', $scfg, 'vm-100-disk-1'); POSIX::_exit(0) } $pid } 1 .. 4;
    waitpid($_, 0) for @children;
    is(starts(), $before + 1);
};

subtest 'a server that cannot begin' => sub {
    server('echo "vitastor-nbd: image $3 does not exist" >&2; exit 1');
    is(fails(sub { $plugin->activate_volume('st', $scfg, 'vm-100-disk-2') }),
        "the NBD server of image pve/vm-100-disk-2 does not start: image pve/vm-100-disk-2 does not exist\n");
    server('exit 1');
    like(fails(sub { $plugin->activate_volume('st', $scfg, 'vm-100-disk-2') }), qr/does not start/);
    unlink($PVE::Storage::Vitastor::CLI::PROGRAM{nbd});
    like(fails(sub { $plugin->activate_volume('st', $scfg, 'vm-100-disk-2') }), qr/is not installed: apt install vitastor-client/);
    is(join(' ', glob("$dir/run/st/*disk-2.sock")), '');
};

subtest 'with systemd' => sub {
    server('');
    mkdir("$dir/systemd");
    local $PVE::Storage::Vitastor::Attach::SYSTEMD_DIR = "$dir/systemd";
    # It keeps the command of a unit, and its process.
    program('systemd-run', <<"EOS");
echo "\$@" > $dir/systemd/options
while [ "\${1#--}" != "\$1" ]; do case "\$1" in --unit=*) unit=\${1#--unit=};; *append:*) log=\${1##*append:};; esac; shift; done
[ -f $dir/systemd/\$unit ] && { echo "Unit \$unit was already loaded" >&2; exit 1; }
"\$@" >/dev/null 2>>\$log </dev/null &
echo \$! > $dir/systemd/\$unit
EOS
    program('systemctl', <<"EOS");
[ -f $dir/systemd/\$2 ] || { echo "Failed to stop \$2: Unit \$2 not loaded." >&2; exit 5; }
kill \$(cat $dir/systemd/\$2); rm $dir/systemd/\$2
EOS
    $plugin->activate_volume('st', $scfg, 'vm-100-disk-3') for 1, 2;
    my @units = glob("$dir/systemd/*.service");
    is(scalar(@units), 1);
    open(my $file, '<', "$dir/systemd/options") or die $!;
    like(<$file>, qr/--collect .*Before=pve-guests.service .*--unit=vitastor-pve-socket-\w+\.service .*--property=Restart=always .* serve --image pve\/vm-100-disk-3 --socket/);
    $plugin->deactivate_volume('st', $scfg, 'vm-100-disk-3') for 1, 2;
    is(join(' ', glob("$dir/systemd/*.service")), '');
    server('echo "vitastor-nbd: no" >&2; exit 1');
    like(fails(sub { $plugin->activate_volume('st', $scfg, 'vm-100-disk-3') }), qr/does not start: no/);
    is(join(' ', glob("$dir/systemd/*.service")), '', 'no unit that starts again and again');
};

$plugin->deactivate_volume('st', $scfg, $_) for $volume, 'vm-100-disk-1';
is(join(' ', glob("$dir/run/st/*.sock")), '');

done_testing();
