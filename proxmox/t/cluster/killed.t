#!/usr/bin/perl -T
# The plugin is killed after each of its steps (so before the next one), and
# called again: everything is as if it had not been killed, and nothing is left.

use strict;
use warnings;

use Test::More;

use Rig qw($plugin $dir storage image_names with_cluster qemu_io killed_at);

with_cluster() or plan(skip_all => 'VITASTOR_BIN and VITASTOR_CONFIG name no cluster');
my $scfg = storage(vitastor_attach => 'native'); # only images matter here
my $cli = PVE::Storage::Vitastor::CLI->new($scfg);
my $prefix = $scfg->{vitastor_prefix};

sub content {
    my ($name, $text) = @_;
    open(my $out, '>', "$dir/data") or die $!;
    print $out $text x 4096;
    close($out);
    $cli->run('dd', "if=$dir/data", "oimg=$prefix$name", 'conv=nocreat');
    return;
}

sub starts_with {
    my ($name, $text) = @_;
    $cli->run('dd', "iimg=$prefix$name", "of=$dir/read", 'count=' . (4096 * length($text)) . 'B', 'bs=4k');
    open(my $in, '<', "$dir/read") or die $!;
    read($in, my $data, length($text));
    is($data, $text, "content of $name");
    return;
}

# each_step kills code after each of its steps, and repeats it, until it comes to
# its end. Each time prepare runs before, and check after.
sub each_step {
    my ($name, $prepare, $code, $check) = @_;
    subtest $name => sub {
        my $steps = 0;
        while ($steps < 20) {
            $prepare->();
            killed_at('after ' . ($steps + 1), $code) or last;
            $steps++;
            $code->();
            $check->("after $steps");
        }
        cmp_ok($steps, '>', 1, "$steps steps");
    };
    return;
}

sub left { my ($want, $when) = @_; is(join(' ', @{ image_names($scfg) }), $want, $when); return }
sub remove_all { my @all = map { "$prefix$_" } @{ image_names($scfg) }; $cli->run('rm', '--exact', @all) if @all; return }

sub disk_with_snapshots {
    remove_all();
    $plugin->alloc_image('st', $scfg, 1, 'raw', 'vm-1-disk-0', 1024);
    for my $snap ('a', 'b') {
        content('vm-1-disk-0', $snap);
        $plugin->volume_snapshot($scfg, 'st', 'vm-1-disk-0', $snap);
    }
    content('vm-1-disk-0', 'c');
    return;
}

each_step('free', \&disk_with_snapshots, sub { $plugin->free_image('st', $scfg, 'vm-1-disk-0') }, sub { left('', $_[0]) });

each_step('rollback', \&disk_with_snapshots, sub { $plugin->volume_snapshot_rollback($scfg, 'st', 'vm-1-disk-0', 'a') }, sub {
    left('vm-1-disk-0 vm-1-disk-0@a vm-1-disk-0@b', $_[0]);
    starts_with('vm-1-disk-0', 'a');
});

subtest 'a rollback that was killed and is not repeated' => sub {
    for my $n (1 .. 20) {
        disk_with_snapshots();
        last if !killed_at("after $n", sub { $plugin->volume_snapshot_rollback($scfg, 'st', 'vm-1-disk-0', 'a') });
        $plugin->activate_volume('st', $scfg, 'vm-1-disk-0', undef, {});
        is(join(' ', map { $_->{volid} } @{ $plugin->list_images('st', $scfg, 1, undef, {}) }), 'st:vm-1-disk-0');
        my %have = map { ($_ => 1) } @{ image_names($scfg) };
        starts_with('vm-1-disk-0', $n < 5 ? 'c' : 'a');
        ok($have{'vm-1-disk-0'} && $have{'vm-1-disk-0@a'} && $have{'vm-1-disk-0@b'}, "after $n");
        $plugin->free_image('st', $scfg, 'vm-1-disk-0');
        left('', 'nothing is left');
    }
};

each_step('delete a snapshot', \&disk_with_snapshots, sub { $plugin->volume_snapshot_delete($scfg, 'st', 'vm-1-disk-0', 'a', 0) }, sub {
    left('vm-1-disk-0 vm-1-disk-0@b', $_[0]);
    starts_with('vm-1-disk-0', 'c');
    starts_with('vm-1-disk-0@b', 'b');
});

each_step('template', sub { remove_all(); $plugin->alloc_image('st', $scfg, 1, 'raw', 'vm-1-disk-0', 1024) },
    sub { $plugin->create_base('st', $scfg, 'vm-1-disk-0') }, sub { left('base-1-disk-0', $_[0]) });

each_step('rename', \&disk_with_snapshots, sub {
    # After the last step there is nothing to repeat.
    return if !grep { /^vm-1/ } @{ image_names($scfg) };
    $plugin->rename_volume($scfg, 'st', 'vm-1-disk-0', 2, 'vm-2-disk-7');
}, sub {
    left('vm-2-disk-7 vm-2-disk-7@a vm-2-disk-7@b', $_[0]);
    starts_with('vm-2-disk-7', 'c');
});

each_step('import', \&remove_all, sub {
    open(my $out, '>', "$dir/export") or die $!;
    print $out pack('Q<', 8192), 'x' x 8192;
    close($out);
    open(my $in, '<', "$dir/export") or die $!;
    # The last kill is after the name was given: then the volume is complete.
    return if grep { $_ eq 'vm-1-disk-0' } @{ image_names($scfg) };
    $plugin->volume_import($scfg, 'st', $in, 'vm-1-disk-0', 'raw+size', undef, undef, 0, 0);
}, sub {
    left('vm-1-disk-0', $_[0]);
    starts_with('vm-1-disk-0', 'xx');
});

subtest 'what has no second step is there or not' => sub {
    my @cases = (
        [sub { $plugin->alloc_image('st', $scfg, 5, 'raw', undef, 4) }, 'vm-5-disk-0'],
        [sub { $plugin->clone_image($scfg, 'st', 'base-1-disk-0', 5) }, 'vm-5-disk-0'],
        [sub { $plugin->alloc_image('st', $scfg, 5, 'raw', 'vm-5-x', 4) }, 'vm-5-x'],
        [sub { $plugin->volume_resize($scfg, 'st', 'vm-1-disk-3', 1 << 20, 0) }, undef],
    );
    remove_all();
    $plugin->alloc_image('st', $scfg, 1, 'raw', "vm-1-disk-$_", 4) for 0, 3;
    $plugin->create_base('st', $scfg, 'vm-1-disk-0');
    my %known = map { ($_ => 1) } @{ image_names($scfg) };
    for my $case (@cases) {
        for my $when ('before 1', 'after 1', 'before 2', 'after 2') {
            killed_at($when, $case->[0]);
            my @new = grep { !$known{$_} } @{ image_names($scfg) };
            is_deeply(\@new, [], $when) if @new != 1 || !defined($case->[1]);
            is($new[0], $case->[1], $when) if @new == 1;
            $cli->run('rm', '--exact', map { "$prefix$_" } @new) if @new;
        }
    }
};

remove_all();
done_testing();
