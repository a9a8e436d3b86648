package PVE::Storage::Vitastor::Transfer;

# The methods of the storage plugin that copy volumes between storages, in the
# format raw+size: the size in bytes (64 bits, little endian), then the data.
#
# Guarantee: a volume gets its name when all its data are there. Until then it
# is NAME.partial, which `pvesm list` shows and a repetition replaces.

use strict;
use warnings;

use POSIX ();

use PVE::Storage::Vitastor::CLI;

use constant FORMAT => 'raw+size';
use constant HEADER_BYTES => 8;
use constant CHUNK_BYTES => 1 << 20;

# Snapshots are exported one at a time: this format has no place for several.
sub volume_export_formats {
    my ($class, $scfg, $storeid, $volname, $snapshot, $base_snapshot, $with_snapshots) = @_;
    return defined($base_snapshot) || $with_snapshots ? () : (FORMAT);
}

sub volume_import_formats {
    my ($class, $scfg, $storeid, $volname, $snapshot, $base_snapshot, $with_snapshots) = @_;
    return defined($base_snapshot) || $with_snapshots ? () : (FORMAT);
}

sub check_transfer {
    my ($format, $base_snapshot, $with_snapshots) = @_;
    die "format '$format' is not supported by storages of type 'vitastor', only " . FORMAT . "\n" if $format ne FORMAT;
    die "differences between snapshots cannot be copied to or from storages of type 'vitastor'\n" if defined($base_snapshot);
    die "volumes cannot be copied with their snapshots to or from storages of type 'vitastor'\n" if $with_snapshots;
    return;
}

sub volume_export {
    my ($class, $scfg, $storeid, $fh, $volname, $format, $snapshot, $base_snapshot, $with_snapshots) = @_;
    check_transfer($format, $base_snapshot, $with_snapshots);
    my $cli = PVE::Storage::Vitastor::CLI->new($scfg);
    my $name = $class->image_name($scfg, $volname, $snapshot);
    write_header($fh, $cli->image($name)->{size});
    $cli->transfer([output => '>&' . fileno($fh)], "iimg=$name");
    return;
}

sub write_header {
    my ($fh, $bytes) = @_;
    my $header = pack('Q<', $bytes);
    my $written = syswrite($fh, $header) // die "cannot write: $!\n";
    die "cannot write the size of the volume\n" if $written != HEADER_BYTES;
    return;
}

sub read_header {
    my ($fh) = @_;
    my $header = '';
    while (length($header) < HEADER_BYTES) {
        my $n = sysread($fh, $header, HEADER_BYTES - length($header), length($header)) // die "cannot read: $!\n";
        die "the data end before the size of the volume\n" if !$n;
    }
    return unpack('Q<', $header);
}

sub volume_import {
    my ($class, $scfg, $storeid, $fh, $volname, $format, $snapshot, $base_snapshot, $with_snapshots, $allow_rename) = @_;
    check_transfer($format, $base_snapshot, $with_snapshots);
    my $cli = PVE::Storage::Vitastor::CLI->new($scfg);
    my $target = $class->import_name($scfg, $volname, $allow_rename);
    my $image = $class->image_name($scfg, $target);
    my $partial = "$image.partial";
    my $bytes = read_header($fh);
    my $kib = $class->can('aligned')->($class->can('kib')->($bytes));
    my %left = $cli->find($partial);
    $cli->run('rm', '--exact', $partial) if %left;
    $cli->run('create', '--size', "${kib}k", '--pool', $scfg->{vitastor_pool}, $partial);
    eval {
        pump($fh, $bytes, sub { $cli->transfer([input => '<&' . fileno($_[0])], "oimg=$partial", 'conv=nocreat') });
        $cli->run('modify', '--rename', $image, ($target =~ /^base-/ ? '--readonly' : ()), $partial);
    };
    if (my $problem = $@) {
        eval { $cli->run('rm', '--exact', $partial) };
        warn $@ if $@;
        die $problem;
    }
    return "$storeid:$target";
}

# pump gives code a pipe from which it can read so many bytes of the input, and
# dies if there are less. vitastor-cli would begin a file anew, and take any end
# of a pipe for the right one.
sub pump {
    my ($fh, $bytes, $code) = @_;
    pipe(my $reader, my $writer) or die "pipe: $!\n";
    my $parent = $$;
    my $child = fork() // die "fork: $!\n";
    if (!$child) {
        close($reader);
        my $missing = eval { copy($fh, $writer, $bytes, $parent) } // 1;
        POSIX::_exit($missing ? 1 : 0);
    }
    close($writer);
    my $ok = eval { $code->($reader); 1 };
    my $problem = $@;
    close($reader);
    waitpid($child, 0);
    die "the data end before $bytes bytes\n" if $? >> 8;
    die $problem if !$ok;
    return;
}

# copy copies as many bytes as there are, up to a number, while the parent lives,
# and returns how many are missing.
sub copy {
    my ($from, $to, $bytes, $parent) = @_;
    while ($bytes > 0 && getppid() == $parent) {
        my $n = sysread($from, my $data, $bytes < CHUNK_BYTES ? $bytes : CHUNK_BYTES) or last;
        for (my $done = 0; $done < $n;) {
            $done += syswrite($to, $data, $n - $done, $done) // return $bytes;
        }
        $bytes -= $n;
    }
    return $bytes;
}

# import_name is the name of the new volume. It is no linked clone.
sub import_name {
    my ($class, $scfg, $volname, $allow_rename) = @_;
    my (undef, $name, $vmid, undef, undef, $is_base) = $class->parse_volname($volname);
    my $image = $class->image_name($scfg, $name);
    my %found = PVE::Storage::Vitastor::CLI->new($scfg)->find($image);
    return $name if !%found;
    die "volume '$name' already exists\n" if !$allow_rename;
    return $class->free_name($scfg, $vmid, $is_base ? 'base' : 'vm');
}

1;
