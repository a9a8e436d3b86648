#!/usr/bin/perl -T
# The page for users says what is true.

use strict;
use warnings;

use Test::More;

use Rig qw($plugin);

my $page = PVE::Tools::file_get_contents('../docs/usage/proxmox.md');

my ($section) = $page =~ /^```\n(vitastor: .*?)^```/ms;
my $config = PVE::SectionConfig::parse_config($plugin, $section)->{vitastor};
is_deeply($config, { vitastor_pool => 'vms', vitastor_prefix => 'pve/', content => 'images,rootdir', shared => 1 });
is(scalar(my @lines = split(/\n/, $section)), 5, 'five lines');

my ($table) = $page =~ /^(\| Property .*?)\n\n/ms;
my @names = map { /^\| (.*?) \|/ ? ($1 =~ /`(\w+)`/g) : () } split(/\n/, $table);
is(join(' ', sort @names), join(' ', sort keys %{ $plugin->options() }), 'all properties');

my ($ways) = $page =~ /^\| `vitastor_attach` \| QEMU gets .*?\n(.*?)\n\n/ms;
is(join(' ', sort 'auto', map { /^\| `(\w+)` \|/ ? $1 : () } split(/\n/, $ways)),
    join(' ', sort @{ $plugin->properties()->{vitastor_attach}{enum} }), 'all ways to attach');

done_testing();
