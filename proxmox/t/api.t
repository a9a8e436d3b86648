#!/usr/bin/perl -T
# What the plugin says about itself, and storage.cfg.

use strict;
use warnings;

use Test::More;

use Rig qw($plugin fails);

subtest 'the version is one that the host accepts' => sub {
    for my $host (10 .. 17) {
        local $PVE::Storage::VERSION_OF_API = $host;
        ok(PVE::Storage::accepts($plugin), "version $host");
        is($plugin->api(), $host < 15 ? $host : 15);
    }
};

subtest 'all methods of the interface are ours' => sub {
    my @methods = qw(type plugindata properties options check_config on_add_hook on_update_hook on_update_hook_full
        on_delete_hook parse_volname path alloc_image free_image list_images create_base clone_image volume_size_info
        volume_resize volume_snapshot volume_snapshot_info volume_snapshot_rollback volume_rollback_is_possible
        volume_snapshot_delete volume_snapshot_needs_fsfreeze volume_has_feature rename_volume rename_snapshot status
        check_connection activate_storage deactivate_storage activate_volume deactivate_volume map_volume unmap_volume
        volume_export volume_export_formats volume_import volume_import_formats get_volume_attribute
        update_volume_attribute get_volume_notes update_volume_notes qemu_blockdev_options volume_qemu_snapshot_method
        get_formats get_identity find_free_diskname);
    for my $method (@methods) {
        isnt($plugin->can($method) // 0, PVE::Storage::Plugin->can($method) // 1, $method);
    }
    isa_ok($plugin, 'PVE::Storage::Plugin');
    ok((grep { $_ eq 'vitastor' } @PVE::Storage::Plugin::SHARED_STORAGE), 'the storage is shared');
};

my $reference = <<'EOC';
vitastor: vitastor
	disable 0
	shared 1
	content images,rootdir
	vitastor_pool testpool
	vitastor_config_path /etc/vitastor/vitastor.conf
	vitastor_etcd_address 10.0.0.1:2379/v3,10.0.0.2:2379/v3
	vitastor_etcd_prefix /vitastor
	vitastor_prefix pve/
	vitastor_nbd 1
EOC

subtest 'a configuration of the reference is read' => sub {
    my $all = PVE::SectionConfig::parse_config($plugin, $reference);
    is($all->{vitastor}{vitastor_pool}, 'testpool');
    is($all->{vitastor}{vitastor_nbd}, 1);
    is(join(' ', PVE::Storage::Vitastor::CLI::client_options($all->{vitastor})),
        '--config_path /etc/vitastor/vitastor.conf --etcd_address 10.0.0.1:2379/v3,10.0.0.2:2379/v3 --etcd_prefix /vitastor');
};

subtest 'the least configuration' => sub {
    my $all = PVE::SectionConfig::parse_config($plugin, "vitastor: v\n\tvitastor_pool p\n");
    is($plugin->image_name($all->{v}, 'vm-1-disk-0'), 'pve/vm-1-disk-0');
    is_deeply([PVE::Storage::Vitastor::CLI::client_options($all->{v})], []);
};

subtest 'wrong configurations' => sub {
    my $check = sub {
        my %config = @_;
        return fails(sub { $plugin->check_config('v', \%config, 1) });
    };
    like($check->(), qr/missing property 'vitastor_pool'/);
    like($check->(vitastor_pool => 'p', vitastor_attach => 'iscsi'), qr/not one of auto native/);
    like($check->(vitastor_pool => 'p', vitastor_nbd => 1, vitastor_attach => 'ublk'), qr/contradict/);
    like($check->(vitastor_pool => 'p', vitastor_prefix => 'a@b'), qr/does not match/);
    like($check->(vitastor_pool => 'p', vitastor_prefix => '-x'), qr/does not match/);
    is($plugin->check_config('v', { vitastor_pool => 'p', vitastor_prefix => '' }, 1)->{shared}, 1);
};

subtest 'the prefix stays' => sub {
    my $scfg = { vitastor_pool => 'p', disable => 1 };
    like(fails(sub { $plugin->on_update_hook_full('v', $scfg, { vitastor_prefix => 'other/' }, [], {}) }), qr/cannot be changed/);
    $plugin->on_update_hook_full('v', $scfg, { vitastor_prefix => 'pve/' }, [], {});
    $plugin->on_update_hook_full('v', { %$scfg, vitastor_prefix => 'pve/' }, {}, ['vitastor_prefix'], {});
};

subtest 'features' => sub {
    my $has = sub { $plugin->volume_has_feature({}, $_[0], 'v', $_[1], $_[2]) ? 1 : 0 };
    my @states = (['vm-1-disk-0'], ['vm-1-disk-0', 's'], ['base-1-disk-0']);
    my %want = (
        snapshot => '110', clone => '011', template => '100', copy => '111', sparseinit => '101',
        rename => '100', replicate => '000', nonsense => '000',
    );
    for my $feature (sort keys %want) {
        is(join('', map { $has->($feature, @$_) } @states), $want{$feature}, $feature);
    }
    is_deeply($plugin->get_formats({}, 'v'), { default => 'raw', valid => { raw => 1 } });
    is($plugin->volume_qemu_snapshot_method('v', {}, 'vm-1-disk-0'), 'storage');
};

subtest 'formats of transfers' => sub {
    for my $method (qw(volume_export_formats volume_import_formats)) {
        is_deeply([$plugin->$method({}, 'v', 'vm-1-disk-0', undef, undef, 0)], ['raw+size']);
        is_deeply([$plugin->$method({}, 'v', 'vm-1-disk-0', 'snap', undef, undef)], ['raw+size']);
        is_deeply([$plugin->$method({}, 'v', 'vm-1-disk-0', 'snap', 'base', 0)], []);
        is_deeply([$plugin->$method({}, 'v', 'vm-1-disk-0', undef, undef, ['a', 'b'])], []);
    }
};

done_testing();
