"""How servers get at volumes.

    network   Nova on the host of the server does it: it makes a block device
              there, or tells libvirt a network disk (libvirt is patched)
    device    a block device of this host: for servers, backups and copies here
    target    such a device, exported by one of Cinder's own iSCSI or NVMe-oF
              targets: for servers anywhere

Guarantee: a device exists while an attachment on this host needs it, and is
gone after the last one has ended.
"""

from __future__ import annotations

import os
import socket
from typing import Any, Optional

from oslo_config import cfg

from cinder import exception
from cinder import utils
from cinder.volume import volume_utils

from . import errors
from .cli import Cluster
from .devices import Devices

# What a patched Nova puts into connectors.
NOVA_KNOWS_US = 'vitastor'

# Devices of this host are made and removed one by one.
LOCK = 'vitastor-devices'


class Connections:
    """Connections of the volumes of one backend."""

    def __init__(self, mode: str, devices: Devices, cluster: Cluster,
                 backend_host: str, target: Any = None):
        self._mode = mode
        self._devices = devices
        self._cluster = cluster
        self._target = target
        self._names = {cfg.CONF.host, socket.gethostname(), socket.getfqdn(),
                       volume_utils.extract_host(backend_host, 'host')}

    # ---- which way

    def _way(self, connector: Optional[dict]) -> str:
        if self._mode != 'auto':
            return self._mode
        return 'network' if (connector or {}).get(NOVA_KNOWS_US) else 'device'

    def _is_here(self, connector: dict) -> bool:
        return (connector.get('host') in self._names
                or connector.get('ip') == cfg.CONF.my_ip)

    def validate(self, connector: dict) -> None:
        """Refuse what cannot work, with what to do about it."""
        way = self._way(connector)
        if way == 'target':
            self._target.validate_connector(connector)
        if way == 'device' and not self._is_here(connector):
            raise exception.InvalidConnectorException(missing=(
                f'host {connector.get("host")} does not know Vitastor '
                'volumes, and block devices are made on '
                f'{cfg.CONF.host} only: patch Nova there, or set '
                'vitastor_attach = target'))

    # ---- connections

    def initialize(self, image: str, connector: dict,
                   volume: Any = None) -> dict:
        """Connect a volume, or a snapshot (no volume)."""
        way = self._way(connector)
        if way == 'network':
            return self._for_nova(image, device=self._mode == 'auto')
        if way == 'target' and volume is not None:
            return self._target.initialize_connection(volume, connector)
        path = self._attach(image, readonly=volume is None)
        return {'driver_volume_type': 'local',
                'data': {'device_path': path, 'discard': True}}

    def _for_nova(self, image: str, device: bool) -> dict:
        return {'driver_volume_type': 'vitastor',
                'data': {'config_path': self._cluster.config_path,
                         'etcd_address': self._cluster.etcd_address,
                         'etcd_prefix': self._cluster.etcd_prefix,
                         'name': image,
                         'device': device,
                         'discard': True,
                         'logical_block_size': '512',
                         'physical_block_size': '4096'}}

    def terminate(self, volume: Any, connector: Optional[dict],
                  **kwargs: Any) -> bool:
        """End a connection; tells whether others of this host remain."""
        if self._mode == 'target':
            self._target.terminate_connection(volume, connector, **kwargs)
            return len(volume.volume_attachment) > 1
        if connector and (self._way(connector) == 'network'
                          or not self._is_here(connector)):
            return False
        if self._attached_here(volume) > 1:
            return True
        self.release(volume.name)
        return False

    def _attached_here(self, volume: Any) -> int:
        return sum(self._is_here(a.connector or {'host': a.attached_host})
                   for a in volume.volume_attachment)

    # ---- exports

    def export(self, context: Any, volume: Any) -> Optional[dict]:
        """Export a volume; returns changes of it."""
        if self._mode != 'target':
            return None
        path = self._attach(volume.name)
        return self._target.create_export(context, volume, path)

    def restore(self, context: Any, volume: Any) -> None:
        """Make what an attached volume needs, after a restart."""
        if not volume.volume_attachment:
            return
        if self._mode == 'target':
            path = self._attach(volume.name)
            self._target.ensure_export(context, volume, path)
        elif any(self._is_here(a.connector or {}) and
                 self._way(a.connector) == 'device'
                 for a in volume.volume_attachment):
            self._attach(volume.name)

    def unexport(self, context: Any, volume: Any) -> None:
        """The opposite of export."""
        if self._mode == 'target':
            self._target.remove_export(context, volume)
            self.release(volume.name)

    # ---- devices

    def _attach(self, image: str, readonly: bool = False) -> str:
        @utils.synchronized(LOCK, external=True)
        def locked() -> str:
            return self._devices.attach(image, readonly)

        with errors.told_as(errors.backend):
            return locked()

    def release(self, image: str) -> None:
        """Remove the device of an image, if it has one on this host."""
        if self._mode == 'network' and not os.path.lexists(
                self._devices.path(image)):
            return  # hosts of network disks need none of the programs

        @utils.synchronized(LOCK, external=True)
        def locked() -> None:
            self._devices.detach(image)

        with errors.told_as(errors.backend):
            locked()
