"""What the tests of the driver share: volumes of Cinder, a driver, a cluster."""

from __future__ import annotations

import os
import sys
import tempfile
import types
import unittest
from typing import Any, Optional

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import package  # noqa: E402

package.install()

from cinder.volume.drivers import vitastor  # noqa: E402
from cinder.volume.drivers.vitastor import cli  # noqa: E402
from cinder.volume.drivers.vitastor import connect  # noqa: E402
from oslo_config import cfg  # noqa: E402
from fake_cluster import FakeCluster, GIB  # noqa: E402

HERE = {'host': 'here', 'ip': '10.0.0.1'}
FAR = {'host': 'far', 'ip': '10.0.0.2'}
cfg.CONF.host, cfg.CONF.my_ip = 'here', '10.0.0.1'


class Configuration:
    """A backend section of cinder.conf."""

    def __init__(self, **values: Any):
        self._values = {'volume_backend_name': 'fast',
                        'reserved_percentage': 0,
                        'max_over_subscription_ratio': '20.0',
                        'volume_dd_blocksize': '1M',
                        'target_helper': 'fake', **values}

    def append_config_values(self, options: Any) -> None:
        """Take the defaults of options that are not set."""
        for o in options:
            self._values.setdefault(getattr(o, 'dest', o.name), o.default)

    def safe_get(self, name: str) -> Any:
        """The value of an option, or None."""
        return self._values.get(name)

    def __getattr__(self, name: str) -> Any:
        return self._values.get(name)


class Attachment(types.SimpleNamespace):
    """An attachment of a volume."""

    def __init__(self, connector: dict):
        super().__init__(connector=connector, attached_host=None)


def volume(identity: str, size: int = 1, host: str = 'here@fast#ssd',
           **more: Any) -> Any:
    """A volume of Cinder."""
    values = {'id': identity, 'name': f'volume-{identity}', 'size': size,
              'host': host, 'encryption_key_id': None, 'snapshots': [],
              'volume_attachment': [], 'provider_location': None,
              '_name_id': None, 'volume_type_id': 't', **more}
    return types.SimpleNamespace(**values)


def snapshot(identity: str, of: Any) -> Any:
    """A snapshot of Cinder."""
    return types.SimpleNamespace(id=identity, name=f'snapshot-{identity}',
                                 volume=of, volume_name=of.name)


class Case(unittest.TestCase):
    """A driver with a cluster of its own."""

    options: dict[str, Any] = {}

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.links = os.path.join(folder.name, 'links')
        os.mkdir(self.links)
        cli.AGAIN_PAUSE_S = 0
        self.start()

    def start(self, cluster: Optional[FakeCluster] = None,
              **options: Any) -> None:
        """A new process of cinder-volume."""
        self.cluster = cluster or FakeCluster()
        configuration = Configuration(**{
            'vitastor_config_path': '/nonexistent',
            'vitastor_etcd_address': '10.0.0.9:2379',
            'vitastor_device_dir': self.links,
            **self.options, **options})
        self.driver = vitastor.VitastorDriver(
            execute=self.cluster.execute, configuration=configuration,
            host='here@fast')
        self.driver.do_setup(None)
        locked = connect.utils.synchronized
        connect.utils.synchronized = lambda *a, **k: lambda f: f
        self.addCleanup(setattr, connect.utils, 'synchronized', locked)

    def names(self) -> list[str]:
        """All images and snapshots."""
        return sorted(self.cluster.images)

    def size(self, name: str) -> float:
        """Size of an image in GiB."""
        return self.cluster.images[name].size / GIB

    def last(self, word: str) -> tuple[str, ...]:
        """The last command with a word in it."""
        return [c for c in self.cluster.commands if word in c][-1]
