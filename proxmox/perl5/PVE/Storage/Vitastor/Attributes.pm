package PVE::Storage::Vitastor::Attributes;

# Notes and the protection of volumes.
#
# They are files of the cluster file system of Proxmox, one for each volume,
# because images have no place for them that survives a snapshot. All nodes see
# them.
#
# Guarantee: a file is replaced as a whole; an attribute that is not set takes
# no space.

use strict;
use warnings;

use PVE::Tools;

use PVE::Storage::Vitastor::CLI;

our $DIR = '/etc/pve/vitastor';

# KNOWN attributes, as the interface of Proxmox names them.
our %KNOWN = (notes => 1, protected => 1);

sub file {
    my ($storeid, $name) = @_;
    return PVE::Storage::Vitastor::CLI::untaint("$DIR/$storeid/$name.json");
}

# get returns all attributes of a volume.
sub get {
    my ($storeid, $name) = @_;
    my $file = file($storeid, $name);
    return {} if !-e $file;
    my $text = PVE::Tools::file_get_contents($file);
    my $all = eval { PVE::Storage::Vitastor::CLI::from_utf8($text) };
    die "$file is damaged, remove it: $@" if ref($all) ne 'HASH';
    return $all;
}

# set changes one; undef or an empty text removes it.
sub set {
    my ($storeid, $name, $attribute, $value) = @_;
    my $all = get($storeid, $name);
    $all->{$attribute} = $value;
    delete $all->{$attribute} if !defined($value) || $value eq '' || $attribute eq 'protected' && !$value;
    return put($storeid, $name, $all);
}

sub put {
    my ($storeid, $name, $all) = @_;
    my $file = file($storeid, $name);
    if (!%$all) {
        unlink($file) || $!{ENOENT} || die "cannot remove $file: $!\n";
        return;
    }
    for my $dir ($DIR, "$DIR/$storeid") {
        my $clean = PVE::Storage::Vitastor::CLI::untaint($dir);
        mkdir($clean) || $!{EEXIST} || die "cannot create $dir: $!\n";
    }
    PVE::Tools::file_set_contents($file, PVE::Storage::Vitastor::CLI::to_utf8($all));
    return;
}

# forget is for a volume that is gone.
sub forget {
    my ($storeid, $name) = @_;
    return put($storeid, $name, {});
}

# rename gives them to another name.
sub rename {
    my ($storeid, $from, $to) = @_;
    my $all = get($storeid, $from);
    return if !%$all;
    put($storeid, $to, $all);
    return forget($storeid, $from);
}

# forget_storage is for a storage that is gone.
sub forget_storage {
    my ($storeid) = @_;
    my $dir = PVE::Storage::Vitastor::CLI::untaint("$DIR/$storeid");
    unlink(PVE::Storage::Vitastor::CLI::untaint($_)) for glob("\Q$dir\E/*.json");
    rmdir($dir);
    return;
}

1;
