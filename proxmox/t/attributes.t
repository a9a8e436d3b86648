#!/usr/bin/perl -T
# Notes and protection.

use strict;
use warnings;
use utf8;

use Test::More;

use Rig qw($plugin $dir fails program);

my $scfg = { vitastor_pool => 'p' };
my @volume = ($scfg, 'st', 'base-1-disk-0/vm-2-disk-0');
program('cli', 'echo \'[{"name": "pve/vm-2-disk-0", "inode_id": 1, "size": 4096}, {"name": "pve/vm-2-disk-1", "inode_id": 2, "size": 4096}]\'');

is($plugin->get_volume_attribute(@volume, 'notes'), '');
is($plugin->get_volume_attribute(@volume, 'protected'), 0);
is($plugin->get_volume_attribute(@volume, 'color'), undef);

my $text = "größer als \"früher\"\nzweite Zeile";
$plugin->update_volume_attribute(@volume, 'notes', $text);
$plugin->update_volume_attribute(@volume, 'protected', 1);
is($plugin->get_volume_attribute(@volume, 'notes'), $text);
is($plugin->get_volume_notes(@volume), $text);
is($plugin->get_volume_attribute($scfg, 'st', 'vm-2-disk-0', 'protected'), 1, 'the name of the template does not matter');
is($plugin->get_volume_attribute($scfg, 'other', 'vm-2-disk-0', 'notes'), '', 'storages are different');

my $list = $plugin->list_images('st', $scfg, undef, undef, {});
is_deeply([map { [@$_{qw(volid notes protected)}] } @$list], [['st:vm-2-disk-0', $text, 1], ['st:vm-2-disk-1', undef, undef]]);

like(fails(sub { $plugin->free_image('st', $scfg, 'base-1-disk-0/vm-2-disk-0') }), qr/is protected/);
is($plugin->rename_volume($scfg, 'st', 'vm-2-disk-0', 3, 'vm-3-disk-0'), 'st:vm-3-disk-0');
is($plugin->get_volume_attribute($scfg, 'st', 'vm-3-disk-0', 'notes'), $text, 'they follow a renaming');
is($plugin->get_volume_attribute(@volume, 'notes'), '');

like(fails(sub { $plugin->update_volume_attribute($scfg, 'st', 'vm-9-disk-0', 'notes', 'x') }), qr/does not exist/);
$plugin->update_volume_notes(@volume, 'x');
$plugin->update_volume_attribute(@volume, 'notes', '');
$plugin->update_volume_attribute(@volume, 'protected', 0);
ok(!-e "$dir/etc/st/vm-2-disk-0.json", 'nothing takes no space');

$plugin->on_delete_hook('st', $scfg);
ok(!-e "$dir/etc/st");

done_testing();
