#!/usr/bin/perl -T
# Names of volumes and images.

use strict;
use warnings;

use Test::More;

use Rig qw($plugin fails);

my %good = (
    'vm-100-disk-0' => ['images', 'vm-100-disk-0', '100', undef, undef, undef, 'raw'],
    'vm-100-cloudinit' => ['images', 'vm-100-cloudinit', '100', undef, undef, undef, 'raw'],
    'vm-100-state-before_upgrade' => ['images', 'vm-100-state-before_upgrade', '100', undef, undef, undef, 'raw'],
    'base-7-disk-12' => ['images', 'base-7-disk-12', '7', undef, undef, 1, 'raw'],
    'base-7-disk-0/vm-8-disk-1' => ['images', 'vm-8-disk-1', '8', 'base-7-disk-0', '7', undef, 'raw'],
    'base-7-disk-0/base-8-disk-1' => ['images', 'base-8-disk-1', '8', 'base-7-disk-0', '7', 1, 'raw'],
);
is_deeply([$plugin->parse_volname($_)], $good{$_}, $_) for sort keys %good;

for my $bad ('', 'vm-1', 'vm-x-disk-0', 'disk-0', 'vm-1-a/b', 'vm-1-disk-0@s', 'vm-1-disk-0/vm-2-disk-0', 'vm-1-disk 0', '../vm-1-disk-0') {
    like(fails(sub { $plugin->parse_volname($bad) }), qr/unable to parse/, "'$bad'");
}

my $scfg = { vitastor_prefix => 'p/' };
is($plugin->image_name($scfg, 'base-7-disk-0/vm-8-disk-1', 'snap'), 'p/vm-8-disk-1@snap');
is($plugin->image_name({ vitastor_prefix => '' }, 'vm-8-disk-1'), 'vm-8-disk-1');

ok($plugin->belongs_to($scfg, $_, 'vm-1-disk-1'), $_)
    for qw(p/vm-1-disk-1 p/vm-1-disk-1@a p/rollback.vm-1-disk-1 p/replaced.vm-1-disk-1);
ok(!$plugin->belongs_to($scfg, $_, 'vm-1-disk-1'), "not $_")
    for qw(p/vm-1-disk-10 p/vm-1-disk-10@a q/vm-1-disk-1 p/xvm-1-disk-1 p/vm-1-disk-1.partial);

is(PVE::Storage::Vitastor::CLI::pattern('a*b?c\\d'), 'a\\*b\\?c\\\\d', 'names are no patterns');
is(PVE::Storage::Custom::VitastorPlugin::aligned(PVE::Storage::Custom::VitastorPlugin::kib($_->[0])), $_->[1], "size $_->[0]")
    for [1, 4], [4096, 4], [4097, 8], [1 << 30, 1 << 20];

done_testing();
