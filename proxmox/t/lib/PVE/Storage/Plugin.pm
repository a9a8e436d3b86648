package PVE::Storage::Plugin;

# Stand-in for tests, written from the documented contract: what the base class
# does not do for storages like ours, it refuses.

use strict;
use warnings;

use PVE::Storage;
use base qw(PVE::SectionConfig);

our @SHARED_STORAGE = qw(nfs rbd);

sub common_properties {
    return {
        (map { ($_ => { type => 'string' }) } qw(nodes content bwlimit)),
        (map { ($_ => { type => 'boolean' }) } qw(disable shared)),
    };
}

for my $method (
    qw(path alloc_image free_image list_images create_base clone_image parse_volname volume_size_info volume_resize
    volume_snapshot volume_snapshot_rollback volume_snapshot_delete volume_snapshot_info rename_volume rename_snapshot
    status activate_storage deactivate_storage activate_volume deactivate_volume volume_export volume_import
    update_volume_attribute get_identity qemu_blockdev_options filesystem_path)
) {
    no strict 'refs';
    *$method = sub { die "$method is not implemented in " . (ref($_[0]) || $_[0]) . "\n" };
}

1;
