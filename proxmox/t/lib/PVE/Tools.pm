package PVE::Tools;

# Stand-in for tests, written from the documented contract of run_command and of
# the functions for files.

use strict;
use warnings;

use IO::Select;
use IPC::Open3;
use Symbol ();

# run_command runs a program with a list of arguments; lines of its output go to
# outfunc and errfunc. It dies if the program does.
sub run_command {
    my ($command, %param) = @_;
    open(my $null, '<', '/dev/null') or die $!;
    my $in = $param{input} // '<&' . fileno($null);
    my $out = $param{output} // Symbol::gensym();
    my $err = Symbol::gensym();
    my $name = join(' ', @$command);
    my $pid = eval { open3($in, $out, $err, @$command) };
    die "command '$name' failed: $@" if !$pid;
    my $select = IO::Select->new($err, ref($out) ? $out : ());
    my %rest;
    my $end = time() + ($param{timeout} // 1e9);
    while ($select->count()) {
        my @ready = $select->can_read($end - time() > 0 ? $end - time() : 0);
        if (!@ready) {
            kill('KILL', $pid);
            waitpid($pid, 0);
            die "command '$name' failed: got timeout\n";
        }
        for my $handle (@ready) {
            my $sink = $handle == $err ? $param{errfunc} : $param{outfunc};
            my $n = sysread($handle, $rest{$handle}, 65536, length($rest{$handle} // ''));
            $select->remove($handle) if !$n;
            while ($rest{$handle} =~ s/^([^\n]*)\n// || !$n && $rest{$handle} =~ s/^(.+)$//s) {
                $sink->($1) if $sink;
            }
        }
    }
    waitpid($pid, 0);
    die "command '$name' failed: exit code " . ($? >> 8) . "\n" if $? >> 8;
    die "command '$name' failed: got signal " . ($? & 127) . "\n" if $?;
    return 0;
}

sub file_get_contents {
    my ($file) = @_;
    open(my $in, '<', $file) or die "can't open '$file' - $!\n";
    local $/;
    return <$in>;
}

# file_set_contents replaces a file as a whole.
sub file_set_contents {
    my ($file, $data) = @_;
    open(my $out, '>', "$file.tmp.$$") or die "can't open '$file.tmp.$$' - $!\n";
    print $out $data or die $!;
    close($out) or die $!;
    rename("$file.tmp.$$", $file) or die "can't rename '$file.tmp.$$' - $!\n";
    return;
}

1;
