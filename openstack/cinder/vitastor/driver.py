"""The driver: volumes and snapshots of Cinder as images of Vitastor.

See the package for what is guaranteed.  Concurrency: operations of one volume
are serialized by Cinder; everything else may run at the same time, on any
number of hosts.
"""

from __future__ import annotations

import re
from typing import Any, Optional

from oslo_concurrency import processutils
from oslo_config import cfg
from oslo_log import log as logging
from oslo_utils import importutils

from cinder import context as cinder_context
from cinder import exception
from cinder import interface
from cinder import objects
from cinder.volume import driver
from cinder.volume import volume_utils

from . import errors
from . import manage
from . import names
from . import stats
from .cli import Cli, Cluster, Image
from .connect import Connections
from .devices import Devices
from .options import OPTIONS
from .transfer import Transfer

LOG = logging.getLogger(__name__)


@interface.volumedriver
class VitastorDriver(driver.CloneableImageVD, driver.MigrateVD,
                     driver.ManageableVD, driver.ManageableSnapshotsVD,
                     driver.BaseVD):
    """Vitastor volumes.

    Version history:
        1.0.0 - Initial version
    """

    VERSION = '1.0.0'
    SUPPORTED = True
    CI_WIKI_NAME = 'Vitastor_CI'
    SUPPORTS_ACTIVE_ACTIVE = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.configuration.append_config_values(OPTIONS)
        self._stats: dict = {}

    @staticmethod
    def get_driver_options() -> list:
        """The options of a backend section."""
        return OPTIONS

    # ---- life

    def do_setup(self, context: Any) -> None:
        """Read the options; nothing is asked of the cluster yet."""
        option = self.configuration.safe_get
        self._settings = stats.Settings.read(
            option('vitastor_config_path'), option('vitastor_etcd_address'),
            option('vitastor_etcd_prefix'), option('vitastor_pool_id'))
        cluster = Cluster(option('vitastor_config_path') or '',
                          option('vitastor_etcd_address') or '',
                          option('vitastor_etcd_prefix') or '')
        self._cli = Cli(self._run, cluster, option('vitastor_cli'))
        self._transfer = Transfer(self._cli, self._execute,
                                  option('volume_dd_blocksize'))
        devices = Devices(self._run, cluster,
                          option('vitastor_device_programs'),
                          option('vitastor_device_dir'))
        mode = option('vitastor_attach')
        self._connections = Connections(
            mode, devices, Cluster(cluster.config_path,
                                   self._settings.etcd_address,
                                   cluster.etcd_prefix),
            self.host or '', self._target() if mode == 'target' else None)

    def _target(self) -> Any:
        helper = self.configuration.safe_get('target_helper')
        return importutils.import_object(
            self.target_mapping[helper], configuration=self.configuration,
            executor=self._execute)

    def _run(self, *command: str, as_root: bool = False
             ) -> tuple[int, str, str]:
        """What the other modules run commands with."""
        try:
            out, err = self._execute(*command, run_as_root=as_root)
            return 0, out, err
        except processutils.ProcessExecutionError as e:
            code = e.exit_code if isinstance(e.exit_code, int) else 1
            return code or 1, e.stdout or '', e.stderr or ''

    def check_for_setup_error(self) -> None:
        """Refuse to start without the cluster or its pools."""
        with errors.told_as(errors.backend):
            self._settings.choose(self._cli.pools())

    # ---- statistics

    def get_volume_stats(self, refresh: bool = False) -> dict:
        """Capabilities and space, for the scheduler."""
        if refresh or not self._stats:
            self._update_volume_stats()
        return self._stats

    def _update_volume_stats(self) -> None:
        option = self.configuration.safe_get
        backend = stats.Backend(
            name=option('volume_backend_name') or 'Vitastor',
            version=self.VERSION,
            reserved_percentage=option('reserved_percentage'),
            max_over_subscription_ratio=(
                volume_utils.get_max_over_subscription_ratio(
                    option('max_over_subscription_ratio'),
                    supports_auto=True)),
            filter_function=self.get_filter_function(),
            goodness_function=self.get_goodness_function())
        try:
            with errors.told_as(errors.backend):
                pools = self._settings.choose(self._cli.pools())
                images = self._cli.images()
        except exception.VolumeBackendAPIException as e:
            LOG.error('Vitastor does not answer: %s', e)
            self._stats = {**backend.capabilities(self._settings),
                           **self._stats, 'backend_state': 'down'}
            return
        self._stats = backend.stats(self._settings, pools, images)

    def get_pool(self, volume: Any) -> Optional[str]:
        """The pool, in Cinder's sense, where a volume is."""
        with errors.told_as(errors.backend):
            image = self._cli.find(volume.name)
        if image is None or self._settings.single:
            return self.configuration.safe_get('volume_backend_name')
        return image.pool_name

    def _pool_of(self, host: Optional[str]) -> str:
        """The pool, in our sense, that a host of Cinder means."""
        if self._settings.single:
            return self._settings.single
        return volume_utils.extract_host(host, 'pool') or ''

    # ---- volumes

    def create_volume(self, volume: Any) -> None:
        """Make an empty volume."""
        with errors.told_as(errors.backend):
            self._cli.create(volume.name, volume.size * names.GIB,
                             self._pool_of(volume.host))
        if volume.encryption_key_id:
            self._transfer.format_encrypted(volume.obj_context, volume)

    def delete_volume(self, volume: Any) -> None:
        """Remove a volume, its snapshots and what operations left of it."""
        self._connections.release(volume.name)
        with errors.told_as(errors.backend):
            self._cli.remove_matching(names.volume_patterns(volume.name))

    def extend_volume(self, volume: Any, new_size: int) -> None:
        """Make a volume bigger, also while it is attached."""
        with errors.told_as(errors.extend):
            self._cli.grow(volume.name, new_size * names.GIB)

    def create_cloned_volume(self, volume: Any, src_vref: Any) -> None:
        """Make a copy of a volume that takes no space."""
        self._check_writers(src_vref)
        self._clone(volume, src_vref.name, volume.name + names.CLONE)

    def _clone(self, volume: Any, source: str, snapshot: str) -> None:
        with errors.told_as(errors.backend):
            self._cli.snapshot(source, snapshot)
            self._cli.create(volume.name, volume.size * names.GIB,
                             self._pool_of(volume.host),
                             parent=f'{source}@{snapshot}')

    # ---- snapshots

    def create_snapshot(self, snapshot: Any) -> None:
        """Make a snapshot, also while the volume is attached."""
        self._check_writers(snapshot.volume)
        with errors.told_as(errors.backend):
            self._cli.snapshot(snapshot.volume_name, snapshot.name)

    @staticmethod
    def _check_writers(volume: Any) -> None:
        """Only one writer learns in time that it has to write elsewhere."""
        if len(volume.volume_attachment) > 1:
            raise exception.InvalidVolume(reason=(
                f'{volume.name} is attached to several servers: snapshots '
                'and copies of it need all but one to be detached'))

    def delete_snapshot(self, snapshot: Any) -> None:
        """Remove a snapshot; its volume and clones keep their data."""
        name = f'{snapshot.volume_name}@{snapshot.name}'
        self._connections.release(name)
        with errors.told_as(errors.backend):
            self._cli.remove(name)

    def create_volume_from_snapshot(self, volume: Any, snapshot: Any) -> None:
        """Make a clone of a snapshot."""
        with errors.told_as(errors.snapshot):
            self._cli.create(volume.name, volume.size * names.GIB,
                             self._pool_of(volume.host),
                             f'{snapshot.volume_name}@{snapshot.name}')

    def snapshot_revert_use_temp_snapshot(self) -> bool:
        """A failed revert can be repeated: no copy is needed before it."""
        return False

    def revert_to_snapshot(self, context: Any, volume: Any,
                           snapshot: Any) -> None:
        """Give a volume the data of its last snapshot.

        The new volume is complete before the old one goes.  Killed between
        the last two steps, the volume has no image until this is repeated.
        """
        name, new = volume.name, volume.name + names.REVERT
        parent = f'{snapshot.volume_name}@{snapshot.name}'
        with errors.told_as(errors.snapshot):
            found = self._cli.find(new)
            if found and (found.parent != parent or found.deleted):
                self._cli.remove(new)
            old = self._cli.find(name)
            self._cli.create(new, volume.size * names.GIB,
                             old.pool_name if old else
                             self._pool_of(volume.host), parent)
            self._cli.remove(name)
            self._cli.rename(new, name)

    # ---- images

    def clone_image(self, context: Any, volume: Any, image_location: Any,
                    image_meta: dict, image_service: Any
                    ) -> tuple[dict, bool]:
        """Make a volume of an image whose data is a volume of ours."""
        source = self._image_volume(context, volume, image_location)
        if source is None or volume.encryption_key_id:
            return {}, False
        # Images of Glance never change: one snapshot is enough for all.
        self._clone(volume, source.name, names.CLONE)
        return {}, True

    def _image_volume(self, context: Any, volume: Any,
                      image_location: Any) -> Any:
        url, locations = image_location or (None, None)
        urls = [entry.get('url') for entry in locations or []] or [url]
        for found in (re.fullmatch('cinder://(?:.*/)?([^/]+)', u or '')
                      for u in urls):
            if not found:
                continue
            try:
                source = objects.Volume.get_by_id(context, found.group(1))
            except exception.VolumeNotFound:
                continue
            if (volume_utils.extract_host(source.host) ==
                    volume_utils.extract_host(volume.host)
                    and source.volume_type_id == volume.volume_type_id):
                return source
        return None

    def copy_image_to_volume(self, context: Any, volume: Any,
                             image_service: Any, image_id: str,
                             disable_sparse: bool = False) -> None:
        """Fill a volume with an image of Glance."""
        self._transfer.from_glance(context, volume, image_service, image_id)

    def copy_image_to_encrypted_volume(
            self, context: Any, volume: Any, image_service: Any,
            image_id: str, disable_sparse: bool = False) -> None:
        """Fill an encrypted volume with an image of Glance."""
        self._transfer.from_glance(context, volume, image_service, image_id,
                                   encrypted=True)

    def copy_volume_to_image(self, context: Any, volume: Any,
                             image_service: Any, image_meta: dict) -> None:
        """Upload a volume to Glance."""
        self._transfer.to_glance(context, volume, image_service, image_meta)

    # ---- connections

    def validate_connector(self, connector: dict) -> None:
        """Refuse hosts that could not use what they would be told."""
        self._connections.validate(connector)

    def initialize_connection(self, volume: Any, connector: dict,
                              **kwargs: Any) -> dict:
        """Tell a host how to get at a volume."""
        return self._connections.initialize(volume.name, connector, volume)

    def terminate_connection(self, volume: Any, connector: Optional[dict],
                             **kwargs: Any) -> bool:
        """A host does not need a volume any more."""
        return self._connections.terminate(volume, connector, **kwargs)

    def create_export(self, context: Any, volume: Any,
                      connector: dict) -> Optional[dict]:
        """Prepare a connection."""
        return self._connections.export(context, volume)

    def ensure_export(self, context: Any, volume: Any) -> None:
        """Prepare a connection again, when Cinder has started."""
        self._connections.restore(context, volume)

    def remove_export(self, context: Any, volume: Any) -> None:
        """Undo what was prepared."""
        self._connections.unexport(context, volume)

    def create_export_snapshot(self, context: Any, snapshot: Any,
                               connector: dict) -> None:
        """Nothing to prepare."""

    def remove_export_snapshot(self, context: Any, snapshot: Any) -> None:
        """Nothing was prepared."""

    def initialize_connection_snapshot(self, snapshot: Any, connector: dict,
                                       **kwargs: Any) -> dict:
        """Tell a host how to read a snapshot: for backups."""
        return self._connections.initialize(
            f'{snapshot.volume_name}@{snapshot.name}', connector)

    def terminate_connection_snapshot(self, snapshot: Any, connector: dict,
                                      **kwargs: Any) -> None:
        """A host does not need a snapshot any more."""
        self._connections.release(f'{snapshot.volume_name}@{snapshot.name}')

    # ---- migration

    def migrate_volume(self, context: Any, volume: Any,
                       host: dict) -> tuple[bool, Optional[dict]]:
        """Move a volume to another pool of this cluster, also attached."""
        pool = self._settings.pool_of_capabilities(
            host.get('capabilities') or {})
        if pool is None or len(volume.volume_attachment) > 1:
            return False, None
        self._move(volume, pool)
        return True, {}

    def _move(self, volume: Any, pool: str) -> None:
        """New data goes to the pool at once; the old follows."""
        old = f'{volume.name}@{names.MIGRATE}'
        with errors.told_as(errors.migration):
            image = self._cli.find(volume.name)
            if image is None:
                raise exception.VolumeMigrationFailed(
                    reason=f'image {volume.name} does not exist')
            if pool not in (str(image.pool_id), image.pool_name):
                self._cli.snapshot(volume.name, names.MIGRATE, pool)
            if self._cli.find(old):
                self._cli.flatten(volume.name)
                self._cli.remove(old)

    def retype(self, context: Any, volume: Any, new_type: Any, diff: dict,
               host: dict) -> tuple[bool, Optional[dict]]:
        """Change the type of a volume; to another pool if need be."""
        if (diff or {}).get('encryption'):
            return False, None
        if host['host'] == volume.host:
            return True, {}
        if volume.snapshots:
            return False, None  # they would stay in the old pool
        return self.migrate_volume(context, volume, host)

    def update_migrated_volume(self, ctxt: Any, volume: Any, new_volume: Any,
                               original_volume_status: str) -> dict:
        """Give a copied volume the name of the original, if it is free."""
        wanted = cfg.CONF.volume_name_template % volume.id
        with errors.told_as(errors.migration):
            if self._cli.find(new_volume.name) and not self._cli.find(wanted):
                self._cli.rename(new_volume.name, wanted)
                return {'_name_id': None, 'provider_location':
                        new_volume.provider_location}
        return {'_name_id': new_volume._name_id or new_volume.id,
                'provider_location': new_volume.provider_location}

    # ---- managing

    def get_manageable_volumes(self, cinder_volumes: Any, marker: Any,
                               limit: int, offset: int, sort_keys: Any,
                               sort_dirs: Any) -> list[dict]:
        """Images that can become volumes."""
        known = {v.name: v.id for v in cinder_volumes}
        found = [manage.volume_entry(image, known.get(image.name))
                 for image in self._our_images()
                 if not names.is_snapshot(image)]
        return volume_utils.paginate_entries_list(
            found, marker, limit, offset, sort_keys, sort_dirs)

    def get_manageable_snapshots(self, cinder_snapshots: Any, marker: Any,
                                 limit: int, offset: int, sort_keys: Any,
                                 sort_dirs: Any) -> list[dict]:
        """Snapshots that can become snapshots of Cinder."""
        known = {f'{s.volume_name}@{s.name}': s.id for s in cinder_snapshots}
        found = [manage.snapshot_entry(image, known.get(image.name))
                 for image in self._our_images() if names.is_snapshot(image)]
        return volume_utils.paginate_entries_list(
            found, marker, limit, offset, sort_keys, sort_dirs)

    def _our_images(self) -> list[Image]:
        with errors.told_as(errors.backend):
            pools = {p.id for p in self._settings.choose(self._cli.pools())}
            return [i for i in self._cli.images() if i.pool_id in pools]

    def manage_existing_get_size(self, volume: Any,
                                 existing_ref: dict) -> int:
        """The size of an image, in GiB, rounded up."""
        return names.gib(self._referred(existing_ref).size)

    def manage_existing(self, volume: Any, existing_ref: dict) -> None:
        """Make an image the image of a volume, with its snapshots."""
        with errors.told_as(errors.reference(existing_ref)):
            if self._cli.find(volume.name):
                return  # it was the last step of an earlier attempt
            image = self._referred(existing_ref)
            self._check_reference(image, existing_ref)
            manage.rename_with_snapshots(self._cli, image.name, volume.name)

    def _referred(self, existing_ref: dict,
                  volume: Optional[str] = None) -> Image:
        """The image, or the snapshot of a volume, that a user names."""
        name = manage.source_name(existing_ref, volume)
        with errors.told_as(errors.reference(existing_ref)):
            image = self._cli.find(name)
        reason = ('there is no such image' if image is None else
                  names.unsafe_reason(image))
        if reason:
            raise errors.reference(existing_ref)(f'{name}: {reason}')
        return image

    def _check_reference(self, image: Image, existing_ref: dict) -> None:
        pools = {p.id for p in self._settings.choose(self._cli.pools())}
        if image.pool_id not in pools:
            raise errors.reference(existing_ref)(
                f'pool {image.pool_name} is not one of this backend')
        owner = volume_utils.extract_id_from_volume_name(image.name)
        if volume_utils.check_already_managed_volume(owner):
            raise exception.ManageExistingAlreadyManaged(
                volume_ref=image.name)

    def unmanage(self, volume: Any) -> None:
        """Forget a volume: its image stays as it is."""

    def manage_existing_snapshot_get_size(self, snapshot: Any,
                                          existing_ref: dict) -> int:
        """The size of a snapshot, in GiB, rounded up."""
        image = self._referred(existing_ref, snapshot.volume_name)
        return names.gib(image.size)

    def manage_existing_snapshot(self, snapshot: Any,
                                 existing_ref: dict) -> None:
        """Make a snapshot of an image a snapshot of Cinder."""
        wanted = f'{snapshot.volume_name}@{snapshot.name}'
        with errors.told_as(errors.reference(existing_ref)):
            if self._cli.find(wanted):
                return
            image = self._referred(existing_ref, snapshot.volume_name)
            owner = volume_utils.extract_id_from_snapshot_name(
                image.name.partition('@')[2])
            if owner and self._snapshot_exists(owner):
                raise exception.ManageExistingAlreadyManaged(
                    volume_ref=image.name)
            self._cli.rename(image.name, wanted)

    @staticmethod
    def _snapshot_exists(snapshot_id: str) -> bool:
        return objects.Snapshot.exists(
            cinder_context.get_admin_context(), snapshot_id)

    def unmanage_snapshot(self, snapshot: Any) -> None:
        """Forget a snapshot: it stays as it is."""
