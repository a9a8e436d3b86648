#!/usr/bin/perl -T
# Two nodes at once.

use strict;
use warnings;

use Test::More;

use Rig qw($plugin $dir storage image_names with_cluster qemu_io fails);

with_cluster() or plan(skip_all => 'VITASTOR_BIN and VITASTOR_CONFIG name no cluster');
my $scfg = storage();

# on runs code as another node would, and returns what it returns: lines.
sub on {
    my ($node, $code) = @_;
    open(my $from, '-|') // die $! or do {
        $PVE::Storage::Vitastor::Attach::RUN_DIR = "$dir/run-$node";
        my @lines = eval { $code->() };
        print STDERR "# $node: $@" if $@;
        print "$_\n" for @lines;
        close(STDOUT);
        POSIX::_exit($@ ? 1 : 0);
    };
    return $from;
}

sub lines { my ($from) = @_; my @lines = <$from>; chomp @lines; return @lines }

subtest 'names' => sub {
    my @nodes = map { on($_, sub { map { $plugin->alloc_image('st', $scfg, 7, 'raw', undef, 1024) } 1 .. 4 }) } 1 .. 3;
    my %names = map { ($_ => 1) } map { lines($_) } @nodes;
    is(scalar(keys %names), 12, 'all are different');
    is(join(' ', @{ image_names($scfg) }), join(' ', sort map { "vm-7-disk-$_" } 0 .. 11), 'and there are no others');
};

subtest 'clones, while the template is removed' => sub {
    $plugin->create_base('st', $scfg, 'vm-7-disk-0');
    my $clone = on('a', sub { $plugin->clone_image($scfg, 'st', 'base-7-disk-0', 8) });
    my $free = on('b', sub { fails(sub { $plugin->free_image('st', $scfg, 'base-7-disk-0', 1) }) =~ /linked clones/ ? 'refused' : 'removed' });
    my ($name) = lines($clone);
    my ($what) = lines($free);
    my @left = grep { /base|vm-8/ } @{ image_names($scfg) };
    # Proxmox has a lock for this; without it, one of them loses, or the clone
    # gets what the template had.
    ok(!$name || grep({ $_ eq 'vm-8-disk-0' } @left), "clone: " . ($name // 'none') . ", template $what, left: @left");
    is((grep { $_ eq 'base-7-disk-0' } @left) ? 'refused' : 'removed', $what);
};

subtest 'a disk goes from one node to the other' => sub {
    my ($a) = lines(on('a', sub {
        qemu_io($scfg, 'vm-7-disk-1', 'write -P 1 0 64k', 'flush');
        $plugin->activate_volume('st', $scfg, 'vm-7-disk-1', undef, {});
        $plugin->path($scfg, 'vm-7-disk-1', 'st');
    }));
    my ($b) = lines(on('b', sub { qemu_io($scfg, 'vm-7-disk-1', $_) for 'read -P 1 0 64k', 'write -P 2 0 64k'; 'ok' }));
    like($a, qr!nbd:unix:.*run-a/!);
    is($b, 'ok', 'both have it for a while');
    is((lines(on('a', sub { qemu_io($scfg, 'vm-7-disk-1', 'read -P 2 0 64k'); 'ok' })))[0], 'ok');
};

$plugin->free_image('st', $scfg, $_) for sort { $b cmp $a } map { $_->{volid} =~ s/^st://r } @{ $plugin->list_images('st', $scfg, undef, undef, {}) };
is(join(' ', @{ image_names($scfg) }), '');
done_testing();
