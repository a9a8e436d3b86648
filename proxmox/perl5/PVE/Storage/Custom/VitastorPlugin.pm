package PVE::Storage::Custom::VitastorPlugin;

# Storage plugin of Proxmox VE 8 and 9 for Vitastor: images of a pool are disks
# of virtual machines and of containers.
#
# Names of volumes: vm-100-disk-0, base-100-disk-0 (template),
# base-100-disk-0/vm-101-disk-0 (linked clone of it). The image of a volume is
# vitastor_prefix and the last part; its snapshots are IMAGE@SNAPSHOT.
#
# Guarantee: every method may be repeated after it was killed at any step, and
# goes on or starts anew; nothing is left that `pvesm list` does not show.
# Nothing that others depend on is deleted.
#
# Concurrency: Proxmox locks the storage for methods that change names. Two
# nodes that create at the same time get different names even so.

use strict;
use warnings;

use PVE::Storage::Plugin;

use PVE::Storage::Vitastor::Access;
use PVE::Storage::Vitastor::Attributes;
use PVE::Storage::Vitastor::CLI;
use PVE::Storage::Vitastor::Identity;
use PVE::Storage::Vitastor::Running;
use PVE::Storage::Vitastor::Transfer;

# What the first two have is not repeated here.
use base qw(PVE::Storage::Vitastor::Access PVE::Storage::Vitastor::Transfer PVE::Storage::Plugin);

# API_VERSION is the newest version of the interface that this file implements.
use constant API_VERSION => 15;

# IMAGE_ALIGNMENT is what sizes of images are multiples of, in KiB.
use constant IMAGE_ALIGNMENT => 4;

# What names of images begin with, after the prefix, during a rollback.
use constant { NEW => 'rollback.', OLD => 'replaced.' };

push @PVE::Storage::Plugin::SHARED_STORAGE, 'vitastor'
    if !grep { $_ eq 'vitastor' } @PVE::Storage::Plugin::SHARED_STORAGE;

# ---- description of the plugin

# api is a version that this host accepts.
sub api {
    my $host = eval { PVE::Storage::APIVER() } // API_VERSION;
    return $host < API_VERSION ? $host : API_VERSION;
}

sub type { return 'vitastor' }

sub plugindata {
    return {
        content => [{ images => 1, rootdir => 1 }, { images => 1 }],
        format => [{ raw => 1 }, 'raw'],
        'sensitive-properties' => {},
    };
}

sub properties {
    return {
        vitastor_pool => { description => 'Pool for new images, by name', type => 'string', pattern => '\S+' },
        vitastor_config_path => { description => 'Configuration of the client', type => 'string', pattern => '/.*' },
        vitastor_etcd_address => { description => 'Addresses of etcd, instead of those of the configuration', type => 'string' },
        vitastor_etcd_prefix => { description => 'Prefix of keys in etcd', type => 'string' },
        vitastor_prefix => { description => 'Beginning of the names of images', type => 'string', pattern => '(?:[^\s@-][^\s@]*)?' },
        vitastor_nbd => { description => 'Use NBD devices of the kernel, the same as vitastor_attach nbd', type => 'boolean' },
        vitastor_attach => {
            description => 'How virtual machines get their disks',
            type => 'string',
            enum => [qw(auto native socket ublk vduse nbd)],
        },
    };
}

sub options {
    return {
        nodes => { optional => 1 },
        disable => { optional => 1 },
        shared => { optional => 1 },
        content => { optional => 1 },
        bwlimit => { optional => 1 },
        vitastor_pool => { fixed => 1 },
        (map { ("vitastor_$_" => { optional => 1 }) } qw(config_path etcd_address etcd_prefix prefix nbd attach)),
    };
}

sub check_config {
    my ($class, $storeid, $config, $create, $skip_schema) = @_;
    my $checked = $class->SUPER::check_config($storeid, $config, $create, $skip_schema);
    my $attach = $checked->{vitastor_attach} // 'auto';
    die "storage '$storeid': vitastor_nbd 1 and vitastor_attach $attach contradict each other\n"
        if $checked->{vitastor_nbd} && $attach !~ /^(?:auto|nbd)$/;
    $checked->{shared} = 1 if $create;
    return $checked;
}

# ---- hooks

sub on_add_hook {
    my ($class, $storeid, $scfg, %sensitive) = @_;
    pool($scfg) if !$scfg->{disable};
    return;
}

sub on_update_hook {
    my ($class, $storeid, $scfg, %sensitive) = @_;
    return $class->on_add_hook($storeid, $scfg);
}

sub on_update_hook_full {
    my ($class, $storeid, $scfg, $update, $delete, $sensitive) = @_;
    my %next = (%$scfg, %{ $update // {} });
    delete @next{ @{ $delete // [] } };
    die "vitastor_prefix cannot be changed: volumes would lose their images\n"
        if prefix(\%next) ne prefix($scfg);
    return $class->on_add_hook($storeid, \%next);
}

sub on_delete_hook {
    my ($class, $storeid, $scfg) = @_;
    PVE::Storage::Vitastor::Attributes::forget_storage($storeid);
    return;
}

# ---- names

sub cli { return PVE::Storage::Vitastor::CLI->new($_[0]) }

sub prefix { return $_[0]->{vitastor_prefix} // 'pve/' }

# image_name is the image of a volume, or of its snapshot.
sub image_name {
    my ($class, $scfg, $volname, $snapname) = @_;
    my (undef, $name) = $class->parse_volname($volname);
    return prefix($scfg) . $name . (defined($snapname) && $snapname ne '' ? "\@$snapname" : '');
}

sub parse_volname {
    my ($class, $volname) = @_;
    die "unable to parse vitastor volume name '$volname'\n"
        if $volname !~ m!^(?:(base-(\d+)-[^\s/@]+)/)?((base|vm)-(\d+)-[^\s/@]+)$!;
    return ('images', $3, $5, $1, $2, $4 eq 'base' ? 1 : undef, 'raw');
}

# join_volname is the opposite.
sub join_volname {
    my ($basename, $name) = @_;
    return defined($basename) ? "$basename/$name" : $name;
}

# free_name returns a name that no image has, nor a leftover of one.
sub free_name {
    my ($class, $scfg, $vmid, $kind) = @_;
    my $prefix = prefix($scfg);
    my $begin = "$prefix$kind-$vmid-disk-";
    my $pattern = PVE::Storage::Vitastor::CLI::pattern($begin) . '*';
    my %used = map { $_->{name} =~ m!^\Q$begin\E(\d+)! ? ($1 => 1) : () } cli($scfg)->images($pattern);
    my ($number) = grep { !$used{$_} } 0 .. scalar(keys %used);
    return "$kind-$vmid-disk-$number";
}

sub find_free_diskname {
    my ($class, $storeid, $scfg, $vmid, $fmt, $add_fmt_suffix) = @_;
    check_format($fmt) if defined($fmt);
    return $class->free_name($scfg, $vmid, 'vm');
}

sub check_format {
    my ($format) = @_;
    die "unsupported format '$format': images are raw\n" if $format ne 'raw';
    return;
}

# create makes an image with a free name, also if another node is faster.
sub create {
    my ($class, $scfg, $vmid, @args) = @_;
    for my $attempt (1 .. 10) {
        my $name = $class->free_name($scfg, $vmid, 'vm');
        return $name if eval { cli($scfg)->run('create', @args, prefix($scfg) . $name); 1 };
        die $@ if !PVE::Storage::Vitastor::CLI::exists($@);
    }
    die "no free name for a disk of $vmid: others take them all\n";
}

# ---- creating and removing

sub alloc_image {
    my ($class, $storeid, $scfg, $vmid, $fmt, $name, $size) = @_;
    check_format($fmt // 'raw');
    my @args = ('--size', aligned($size) . 'k', '--pool', $scfg->{vitastor_pool});
    return $class->create($scfg, $vmid, @args) if !defined($name) || $name eq '';
    die "illegal name '$name': it must begin with vm-$vmid-\n" if $name !~ /^vm-\Q$vmid\E-/;
    cli($scfg)->run('create', @args, $class->image_name($scfg, $name));
    return $name;
}

# aligned rounds a number of KiB up.
sub aligned { return int(($_[0] + IMAGE_ALIGNMENT - 1) / IMAGE_ALIGNMENT) * IMAGE_ALIGNMENT }

# KiB of a number of bytes, rounded up.
sub kib { return int(($_[0] + 1023) / 1024) }

sub free_image {
    my ($class, $storeid, $scfg, $volname, $is_base, $format) = @_;
    my (undef, $name) = $class->parse_volname($volname);
    die "volume '$storeid:$volname' is protected\n"
        if PVE::Storage::Vitastor::Attributes::get($storeid, $name)->{protected};
    my $cli = cli($scfg);
    my @images = $cli->images(); # clones may have any name
    my @victims = grep { $class->belongs_to($scfg, $_->{name}, $name) } @images;
    die_with_children($storeid, $volname, \@images, \@victims);
    $class->stop_using($storeid, $scfg, $_->{name}) for @victims;
    $cli->run('rm', '--exact', map { $_->{name} } @victims) if @victims;
    PVE::Storage::Vitastor::Attributes::forget($storeid, $name);
    return;
}

# belongs_to tells whether an image is that of a volume, a snapshot of it, or a
# leftover of a rollback.
sub belongs_to {
    my ($class, $scfg, $image, $name) = @_;
    my $prefix = prefix($scfg);
    my ($new, $old) = (NEW, OLD);
    return $image =~ /^\Q$prefix\E(?:\Q$new\E|\Q$old\E)?\Q$name\E(?:@|$)/;
}

# die_with_children refuses to remove what others are made of. Parents are
# compared by number: names may begin alike.
sub die_with_children {
    my ($storeid, $volname, $images, $victims) = @_;
    my %victim = map { ($_->{inode_id} => $_->{name}) } @$victims;
    my @children = grep { !$victim{ $_->{inode_id} } && $victim{ $_->{parent_inode_id} // 0 } } @$images;
    return if !@children;
    my $list = join(', ', map { "$_->{name} (of $_->{parent_name})" } @children);
    die "volume '$storeid:$volname' cannot be removed, because there are linked clones of it: $list\n";
}

sub create_base {
    my ($class, $storeid, $scfg, $volname) = @_;
    my ($vtype, $name, $vmid, $basename, undef, $is_base) = $class->parse_volname($volname);
    die "'$volname' is a template already\n" if $is_base;
    my $base = $name =~ s/^vm-/base-/r;
    my ($from, $to) = map { prefix($scfg) . $_ } ($name, $base);
    my $cli = cli($scfg);
    my %layers = map { ($_->{name} => $_) } ($cli->layers($from), $cli->layers($to));
    # We were here before and were killed.
    my $done = !$layers{$from} && $layers{$to} && $layers{$to}{readonly};
    if (!$done) {
        my @snapshots = grep { /^\Q$from\E@/ } keys %layers;
        die "'$volname' has snapshots and cannot become a template: @snapshots\n" if @snapshots;
        $class->stop_using($storeid, $scfg, $from);
        $cli->run('modify', '--rename', $to, '--readonly', $from);
    }
    PVE::Storage::Vitastor::Attributes::rename($storeid, $name, $base);
    return join_volname($basename, $base);
}

sub clone_image {
    my ($class, $scfg, $storeid, $volname, $vmid, $snap) = @_;
    my ($vtype, $name, undef, undef, undef, $is_base) = $class->parse_volname($volname);
    die "'$volname' is neither a template nor a snapshot: a linked clone would see its changes\n"
        if !$is_base && !defined($snap);
    my $new = $class->create($scfg, $vmid, '--parent', $class->image_name($scfg, $volname, $snap),
        '--pool', $scfg->{vitastor_pool});
    return join_volname($is_base && !defined($snap) ? $name : undef, $new);
}

# ---- looking

sub list_images {
    my ($class, $storeid, $scfg, $vmid, $vollist, $cache) = @_;
    my $images = $cache->{vitastor}{$storeid} //=
        [cli($scfg)->images(PVE::Storage::Vitastor::CLI::pattern(prefix($scfg)) . '*')];
    my %wanted = map { ($_ => 1) } @{ $vollist // [] };
    my %by_id = map { ($_->{inode_id} => $_) } @$images;
    return [
        grep { $vollist ? $wanted{ $_->{volid} } : !defined($vmid) || $_->{vmid} == $vmid }
        map { $class->list_entry($storeid, $scfg, $_, \%by_id) } volumes_of($scfg, $images)
    ];
}

# volumes_of takes from a list of images those that are volumes. When only
# snapshots of a volume are left, because removing it was interrupted, the
# newest of them stands for it: it has to be visible to be removed again.
sub volumes_of {
    my ($scfg, $images) = @_;
    my $prefix = prefix($scfg);
    my (%volumes, %rest);
    for my $image (@$images) {
        my ($name, $snapshot) = $image->{name} =~ m!^\Q$prefix\E((?:vm|base)-\d+-[^\s/@]+)(@.*)?$! or next;
        my $place = defined($snapshot) ? \%rest : \%volumes;
        $place->{$name} = $image if !$place->{$name} || $place->{$name}{inode_id} < $image->{inode_id};
    }
    my %all = (%rest, %volumes);
    return map { { %{ $all{$_} }, volume => $_ } } sort keys %all;
}

sub list_entry {
    my ($class, $storeid, $scfg, $image, $by_id) = @_;
    my $basename = template_of($scfg, $image, $by_id);
    my ($vmid) = $image->{volume} =~ /^\w+-(\d+)-/;
    return {
        volid => "$storeid:" . join_volname($basename, $image->{volume}),
        format => 'raw',
        size => $image->{size},
        vmid => $vmid,
        parent => $basename,
        %{ PVE::Storage::Vitastor::Attributes::get($storeid, $image->{volume}) },
    };
}

# template_of is the template of which a volume is a linked clone, also below
# snapshots of the volume itself.
sub template_of {
    my ($scfg, $image, $by_id) = @_;
    my $prefix = prefix($scfg);
    my $layer = $image;
    while (my $parent = $layer->{parent_name}) {
        return $1 if $parent =~ m!^\Q$prefix\E(base-\d+-[^\s/@]+)$!;
        return if $parent !~ /^\Q$prefix$image->{volume}\E@/;
        $layer = $by_id->{ $layer->{parent_inode_id} } // return;
    }
    return;
}

sub volume_size_info {
    my ($class, $scfg, $storeid, $volname, $timeout) = @_;
    my $name = $class->image_name($scfg, $volname);
    my ($image) = cli($scfg)->images('-l', PVE::Storage::Vitastor::CLI::pattern($name));
    die "image $name does not exist\n" if !$image;
    return wantarray ? ($image->{size}, 'raw', $image->{used_size}, $image->{parent_name}, 0) : $image->{size};
}

sub volume_snapshot_info {
    my ($class, $scfg, $storeid, $volname) = @_;
    my $name = $class->image_name($scfg, $volname);
    my @layers = sort { $a->{inode_id} <=> $b->{inode_id} } cli($scfg)->layers($name);
    my ($info, $order) = ({}, 0);
    my %snapshot_of = map { $_->{name} =~ /@(.*)$/ ? ($_->{inode_id} => $1) : () } @layers;
    for my $layer (@layers) {
        my $snap = $snapshot_of{ $layer->{inode_id} } // next;
        $info->{$snap} = {
            id => "$layer->{inode_id}",
            order => $order++,
            timestamp => $layer->{meta}{create_ts} // 0, # of volume_snapshot
            'virtual-size' => $layer->{size},
        };
        my $parent = $snapshot_of{ $layer->{parent_inode_id} // 0 };
        $info->{$snap}{parent} = $parent if defined($parent);
    }
    return $info;
}

# pool is what the cluster says about the pool of a storage.
sub pool {
    my ($scfg) = @_;
    my $wanted = $scfg->{vitastor_pool};
    my ($pool) = grep { $_->{name} eq $wanted } @{ cli($scfg)->ask('df') };
    return $pool // die "pool $wanted does not exist: vitastor-cli ls-pools shows those that do\n";
}

sub status {
    my ($class, $storeid, $scfg, $cache) = @_;
    my $pool = pool($scfg);
    my $free = $pool->{max_available};
    my $used = $pool->{raw_to_usable} > 0 ? int($pool->{used_raw} / $pool->{raw_to_usable}) : 0;
    return ($free + $used, $free, $used, 1);
}

sub check_connection {
    my ($class, $storeid, $scfg) = @_;
    return 1 if eval { pool($scfg); 1 };
    warn "storage '$storeid': $@";
    return 0;
}

sub get_identity {
    my ($class, $scfg, $storeid) = @_;
    return PVE::Storage::Vitastor::Identity::of($scfg, pool($scfg)->{id}, prefix($scfg));
}

sub get_formats {
    my ($class, $scfg, $storeid) = @_;
    return { default => 'raw', valid => { raw => 1 } };
}

my %FEATURES = (
    snapshot => { current => 1, snap => 1 },
    clone => { base => 1, snap => 1 },
    template => { current => 1 },
    copy => { base => 1, current => 1, snap => 1 },
    sparseinit => { base => 1, current => 1 },
    rename => { current => 1 },
);

sub volume_has_feature {
    my ($class, $scfg, $feature, $storeid, $volname, $snapname, $running, $opts) = @_;
    my (undef, undef, undef, undef, undef, $is_base) = $class->parse_volname($volname);
    my $state = $snapname ? 'snap' : $is_base ? 'base' : 'current';
    return $FEATURES{$feature}{$state} ? 1 : undef;
}

# ---- changing

sub volume_resize {
    my ($class, $scfg, $storeid, $volname, $size, $running, $snapname) = @_;
    die "snapshots cannot be resized\n" if defined($snapname);
    my $name = $class->image_name($scfg, $volname);
    my $kib = aligned(kib($size));
    # inc_size: a disk is never made smaller, also if two resize it at once.
    cli($scfg)->run('modify', '--inc_size', 1, '--resize', "${kib}k", $name);
    PVE::Storage::Vitastor::Running::follow_size($class->attachment($storeid, $scfg, $name), $volname, $size, $running);
    return 1;
}

sub volume_snapshot {
    my ($class, $scfg, $storeid, $volname, $snap) = @_;
    my $meta = '{"create_ts":' . time() . '}';
    cli($scfg)->run('snap-create', '--image_meta', $meta, $class->image_name($scfg, $volname, $snap));
    return;
}

sub volume_snapshot_needs_fsfreeze { return 1 }

# A snapshot is taken below a running machine: its writes go on to a new layer.
sub volume_qemu_snapshot_method { return 'storage' }

# Images are trees: other snapshots stay what they are.
sub volume_rollback_is_possible { return 1 }

# volume_snapshot_rollback makes the new image before the old one goes:
#
#	create --parent IMAGE@SNAP new; rename IMAGE old; rename new IMAGE; rm old
#
# Who finds old without IMAGE, undoes the first renaming.
sub volume_snapshot_rollback {
    my ($class, $scfg, $storeid, $volname, $snap) = @_;
    my $cli = cli($scfg);
    $class->undo_rollback($scfg, $volname);
    my ($image, $snapshot, $new, $old) = $class->rollback_names($scfg, $volname, $snap);
    my %have = $cli->find($image, $snapshot, $new, $old);
    die "snapshot $snapshot does not exist\n" if !$have{$snapshot};
    die "image $image does not exist\n" if !$have{$image};
    $class->stop_using($storeid, $scfg, $image);
    $cli->run('rm', '--exact', grep { $have{$_} } ($new, $old)) if $have{$new} || $have{$old};
    $cli->run('create', '--parent', $snapshot, $new);
    $cli->run('modify', '--rename', $old, $image);
    $cli->run('modify', '--rename', $image, $new);
    $cli->run('rm', '--exact', $old);
    return;
}

sub rollback_names {
    my ($class, $scfg, $volname, $snap) = @_;
    my (undef, $name) = $class->parse_volname($volname);
    return map { prefix($scfg) . $_ } ($name, defined($snap) ? "$name\@$snap" : (), NEW . $name, OLD . $name);
}

# undo_rollback gives a volume its image back if a rollback was interrupted
# between its two renamings. It tells whether that was so.
sub undo_rollback {
    my ($class, $scfg, $volname) = @_;
    my ($image, undef, $old) = $class->rollback_names($scfg, $volname);
    my %have = cli($scfg)->find($image, $old);
    return 0 if !$have{$old} || $have{$image};
    cli($scfg)->run('modify', '--rename', $image, $old);
    return 1;
}

sub volume_snapshot_delete {
    my ($class, $scfg, $storeid, $volname, $snap, $running) = @_;
    my $name = $class->image_name($scfg, $volname);
    my %have = map { ($_->{name} => 1) } cli($scfg)->layers($name);
    die "image $name does not exist\n" if !%have;
    $class->stop_using($storeid, $scfg, "$name\@$snap");
    cli($scfg)->run('rm', "$name\@$snap") if $have{"$name\@$snap"};
    return;
}

sub rename_snapshot {
    my ($class, $scfg, $storeid, $volname, $source_snap, $target_snap) = @_;
    my ($from, $to) = map { $class->image_name($scfg, $volname, $_) } ($source_snap, $target_snap);
    $class->stop_using($storeid, $scfg, $from);
    cli($scfg)->run('modify', '--rename', $to, $from);
    return;
}

# rename_volume renames the image, then its snapshots. A repetition with the
# same target renames the rest.
sub rename_volume {
    my ($class, $scfg, $storeid, $source_volname, $target_vmid, $target_volname) = @_;
    my (undef, $name, undef, $basename, undef, $is_base) = $class->parse_volname($source_volname);
    my $kind = $is_base ? 'base' : 'vm';
    my $target = $target_volname // $class->free_name($scfg, $target_vmid, $kind);
    my (undef, $new) = $class->parse_volname($target);
    my ($from, $to) = map { prefix($scfg) . $_ } ($name, $new);
    my $cli = cli($scfg);
    my %source = map { ($_->{name} => $_) } $cli->layers($from);
    my %there = $cli->find($to);
    die "image $from does not exist\n" if !%source;
    die "target volume '$new' already exists\n" if $there{$to} && $source{$from};
    die "image $from does not exist\n" if !$there{$to} && !$source{$from};
    $class->stop_using($storeid, $scfg, $_) for keys %source;
    $cli->run('modify', '--rename', $to . substr($_, length($from)), $_) for sort keys %source;
    PVE::Storage::Vitastor::Attributes::rename($storeid, $name, $new);
    return "$storeid:" . join_volname($basename, $new);
}

# ---- notes and protection

sub get_volume_attribute {
    my ($class, $scfg, $storeid, $volname, $attribute) = @_;
    my (undef, $name) = $class->parse_volname($volname);
    return undef if !$PVE::Storage::Vitastor::Attributes::KNOWN{$attribute};
    my $value = PVE::Storage::Vitastor::Attributes::get($storeid, $name)->{$attribute};
    return $value // ($attribute eq 'protected' ? 0 : '');
}

sub update_volume_attribute {
    my ($class, $scfg, $storeid, $volname, $attribute, $value) = @_;
    my (undef, $name) = $class->parse_volname($volname);
    die "attribute '$attribute' is not supported for storage type 'vitastor'\n"
        if !$PVE::Storage::Vitastor::Attributes::KNOWN{$attribute};
    cli($scfg)->image(prefix($scfg) . $name);
    PVE::Storage::Vitastor::Attributes::set($storeid, $name, $attribute, $value);
    return;
}

sub get_volume_notes {
    my ($class, $scfg, $storeid, $volname, $timeout) = @_;
    return $class->get_volume_attribute($scfg, $storeid, $volname, 'notes');
}

sub update_volume_notes {
    my ($class, $scfg, $storeid, $volname, $notes, $timeout) = @_;
    return $class->update_volume_attribute($scfg, $storeid, $volname, 'notes', $notes);
}

1;
