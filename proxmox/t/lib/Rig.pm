package Rig;

# What the tests share: the plugin with everything of this machine replaced by
# folders of our own, programs that pretend, and a real cluster if there is one.

use strict;
use warnings;

use Cwd ();
use Exporter qw(import);
use File::Path ();
use File::Temp ();
use POSIX ();

use PVE::Storage;
use PVE::Storage::Custom::VitastorPlugin;
use PVE::Cluster;

our @EXPORT_OK = qw($plugin $dir clean fails program image_names storage killed_at with_cluster reset_calls qemu_io json_name);

our $plugin = 'PVE::Storage::Custom::VitastorPlugin';
our $dir = clean(File::Temp::tempdir('/tmp/vitastor-pve-XXXXXX', CLEANUP => 1));

# As pvedaemon has it.
$ENV{PATH} = '/usr/sbin:/usr/bin:/sbin:/bin';
delete @ENV{qw(IFS CDPATH ENV BASH_ENV)};

$PVE::Storage::Vitastor::Attach::RUN_DIR = "$dir/run";
$PVE::Storage::Vitastor::Attach::DEVICE_DIR = "$dir/dev";
$PVE::Storage::Vitastor::Attach::SYSTEMD_DIR = "$dir/no-systemd";
$PVE::Storage::Vitastor::Attributes::DIR = "$dir/etc";
our $programs = \%PVE::Storage::Vitastor::CLI::PROGRAM;
$programs->{$_} = "$dir/none/vitastor-$_" for qw(cli nbd ublk vduse);
$programs->{$_} = "$dir/none/$_" for qw(systemctl systemd-run qemu-img modprobe);

# clean takes the taint from what the tests themselves say.
sub clean {
    my ($value) = @_;
    my ($clean) = ($value // '') =~ /\A(.*)\z/s;
    return $clean;
}

# fails tells what an exception says; code that does not die is a failure, too.
sub fails {
    my ($code) = @_;
    return eval { $code->(); 1 } ? 'nothing went wrong' : $@;
}

# program replaces a program by a script, and returns the path of the script.
sub program {
    my ($name, $script) = @_;
    File::Path::make_path("$dir/bin");
    my $file = "$dir/bin/" . ($name =~ /^(?:cli|nbd|ublk|vduse)$/ ? "vitastor-$name" : $name);
    open(my $out, '>', $file) or die $!;
    print $out "#!/bin/sh\n$script\n";
    close($out);
    chmod(0755, $file);
    $programs->{$name} = $file;
    return $file;
}

# with_cluster uses the programs and the cluster that the environment names, and
# leaves it to the caller to skip the test if there is none.
sub with_cluster {
    my $bin = clean($ENV{VITASTOR_BIN}) || return 0;
    $programs->{$_} = "$bin/vitastor-$_" for qw(cli nbd);
    $programs->{'qemu-img'} = '/usr/bin/qemu-img';
    # Every step of the plugin goes through this, see killed_at.
    my $steps = "$dir/steps";
    program('cli', <<"EOS");
n=\$(cat $steps 2>/dev/null || echo 0)
n=\$((n+1)); echo \$n > $steps
at=\$(cat $dir/kill-at 2>/dev/null)
echo "\$@" >> $dir/calls
if [ "\$at" = "before \$n" ]; then kill -9 \$PPID; exit 1; fi
$bin/vitastor-cli "\$@" <&0
rc=\$?
if [ "\$at" = "after \$n" ]; then kill -9 \$PPID; fi
exit \$rc
EOS
    return 1;
}

# storage is a section of storage.cfg for the cluster of the environment; names
# of images begin with the name of the test.
sub storage {
    my (%more) = @_;
    my ($test) = $0 =~ m!([^/]+)\.t$!;
    return { vitastor_pool => 'testpool', vitastor_config_path => $ENV{VITASTOR_CONFIG}, vitastor_prefix => "$test$$/", %more };
}

# image_names are those of the storage, without the prefix.
sub image_names {
    my ($scfg) = @_;
    my $prefix = $scfg->{vitastor_prefix};
    return [sort map { $_->{name} =~ s/^\Q$prefix\E//r } PVE::Storage::Vitastor::CLI->new($scfg)->images("$prefix*")];
}

# json_name is a volume as QEMU gets it with -blockdev.
sub json_name {
    my ($scfg, $volume, $snap) = @_;
    my $options = PVE::Storage::qemu_blockdev_options($plugin, $scfg, 'st', $volume, 'pc', $snap ? { 'snapshot-name' => $snap } : {});
    return 'json:' . PVE::Storage::Vitastor::CLI::to_utf8({ driver => 'raw', file => $options });
}

# qemu_io does I/O on an activated volume, which it names as Proxmox 9 and 8 do by
# turns, and returns what the commands print; a failed one is an exception.
my $turn = 0;

sub qemu_io {
    my ($scfg, $volume, @commands) = @_;
    my $snap = $volume =~ s/@(.*)// ? $1 : undef;
    $plugin->activate_volume('st', $scfg, $volume, $snap, {});
    my $out = '';
    my $name = $turn++ % 2 ? json_name($scfg, $volume, $snap) : $plugin->path($scfg, $volume, 'st', $snap);
    my @how = ($snap || $volume =~ /base-[^\/]+$/ ? '-r' : (), $name =~ /^json/ ? () : ('-f', 'raw'));
    my $ok = eval {
        PVE::Tools::run_command(
            ['/usr/bin/qemu-io', @how, (map { ('-c', $_) } @commands), clean($name)],
            outfunc => sub { $out .= "$_[0]\n" }, errfunc => sub { $out .= "$_[0]\n" },
        );
        1;
    };
    die "qemu-io @commands: $out$@" if !$ok || $out =~ /fail|error/i;
    $plugin->deactivate_volume('st', $scfg, $volume, $snap, {});
    return $out;
}

# What a failed test has left ends with it.
my $main = $$;

END {
    if ($$ == $main) {
        for my $file (map { clean($_) } glob("$dir/run*/*/*.pid")) {
            open(my $in, '<', $file) or next;
            kill('KILL', clean(<$in>));
        }
    }
}

sub reset_calls { unlink("$dir/$_") for qw(steps calls kill-at); return }

# killed_at runs code in a process that is killed at a step: "before 3" is when
# the third command of vitastor-cli would begin, "after 3" when it has ended. It
# returns false if the code ended before that.
sub killed_at {
    my ($when, $code) = @_;
    reset_calls();
    open(my $out, '>', "$dir/kill-at") or die $!;
    print $out $when;
    close($out);
    my $pid = fork() // die $!;
    if (!$pid) {
        my $ok = eval { $code->(); 1 };
        print STDERR "# $when: $@" if !$ok;
        POSIX::_exit($ok ? 0 : 1);
    }
    waitpid($pid, 0);
    my $status = $?;
    reset_calls();
    die "the code failed\n" if $status >> 8;
    return ($status & 127) == 9;
}

1;
