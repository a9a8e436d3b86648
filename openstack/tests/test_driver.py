"""The driver over a cluster in memory: what it leaves after every failure."""

from __future__ import annotations

import os
import sys
import tempfile
import types
import unittest
from collections.abc import Callable
from typing import Any, Optional

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import package  # noqa: E402

package.install()

from cinder import exception  # noqa: E402
from cinder.volume.drivers import vitastor  # noqa: E402
from cinder.volume.drivers.vitastor import cli  # noqa: E402
from cinder.volume.drivers.vitastor import connect  # noqa: E402
from oslo_config import cfg  # noqa: E402
from fake_cluster import Failed, FakeCluster, GIB, Killed  # noqa: E402

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


class VolumeTest(Case):
    """Volumes and snapshots."""

    def test_create_extend_delete(self) -> None:
        v = volume('a', 2)
        self.driver.create_volume(v)
        self.assertEqual(self.size('volume-a'), 2)
        self.assertEqual(self.cluster.images['volume-a'].pool, 1)
        self.driver.extend_volume(v, 5)
        self.assertEqual(self.size('volume-a'), 5)
        self.driver.extend_volume(v, 5)
        self.driver.extend_volume(v, 3)  # repeated by a slow controller
        self.assertEqual(self.size('volume-a'), 5)
        self.driver.delete_volume(v)
        self.driver.delete_volume(v)
        self.assertEqual(self.names(), [])

    def test_the_host_says_the_pool(self) -> None:
        self.driver.create_volume(volume('a', host='here@fast#hdd'))
        self.assertEqual(self.cluster.images['volume-a'].pool, 2)

    def test_options_of_the_cluster_are_given_to_every_command(self) -> None:
        self.driver.create_volume(volume('a'))
        command = ' '.join(self.last('create'))
        self.assertIn('--config_path /nonexistent --etcd_address '
                      '10.0.0.9:2379 --etcd_prefix /vitastor', command)

    def test_clone_and_its_snapshot_go_together(self) -> None:
        a, b = volume('a'), volume('b', 3)
        self.driver.create_volume(a)
        self.cluster.write('volume-a', 'before')
        self.driver.create_cloned_volume(b, a)
        self.cluster.write('volume-a', 'after')
        self.assertEqual(self.cluster.content('volume-b'), ['before'])
        self.assertEqual(self.size('volume-b'), 3)
        self.driver.delete_volume(b)
        self.assertEqual(self.names(), ['volume-a'])
        self.assertEqual(self.cluster.content('volume-a'),
                         ['before', 'after'])

    def test_source_goes_before_its_clone(self) -> None:
        a, b = volume('a'), volume('b')
        self.driver.create_volume(a)
        self.cluster.write('volume-a', 'data')
        self.driver.create_cloned_volume(b, a)
        self.driver.delete_volume(a)
        self.assertEqual(self.names(), ['volume-b'])
        self.assertEqual(self.cluster.content('volume-b'), ['data'])

    def test_names_that_are_patterns(self) -> None:
        for name in ('a*', 'ab', 'a?', 'a\\'):
            self.driver.create_volume(volume(name))
        self.driver.delete_volume(volume('a*'))
        self.assertEqual(self.names(),
                         ['volume-a?', 'volume-a\\', 'volume-ab'])

    def test_snapshots(self) -> None:
        a = volume('a')
        self.driver.create_volume(a)
        self.cluster.write('volume-a', 'one')
        s = snapshot('s', a)
        self.driver.create_snapshot(s)
        self.driver.create_snapshot(s)
        self.cluster.write('volume-a', 'two')
        self.driver.create_volume_from_snapshot(volume('b', 4), s)
        self.assertEqual(self.cluster.content('volume-b'), ['one'])
        self.assertEqual(self.size('volume-b'), 4)
        self.driver.delete_snapshot(s)
        self.driver.delete_snapshot(s)
        self.assertEqual(self.names(), ['volume-a', 'volume-b'])
        self.assertEqual(self.cluster.content('volume-a'), ['one', 'two'])
        self.assertEqual(self.cluster.content('volume-b'), ['one'])

    def test_two_writers_allow_no_snapshot(self) -> None:
        a = volume('a', volume_attachment=[Attachment(HERE), Attachment(FAR)])
        self.driver.create_volume(a)
        for call in (lambda: self.driver.create_snapshot(snapshot('s', a)),
                     lambda: self.driver.create_cloned_volume(volume('b'),
                                                              a)):
            with self.assertRaisesRegex(exception.InvalidVolume, 'several'):
                call()
        self.assertEqual(self.names(), ['volume-a'])

    def test_revert(self) -> None:
        a = volume('a')
        self.driver.create_volume(a)
        self.cluster.write('volume-a', 'one')
        s = snapshot('s', a)
        self.driver.create_snapshot(s)
        self.cluster.write('volume-a', 'two')
        self.assertFalse(self.driver.snapshot_revert_use_temp_snapshot())
        self.driver.revert_to_snapshot(None, a, s)
        self.assertEqual(self.cluster.content('volume-a'), ['one'])
        self.assertEqual(self.names(), ['volume-a', 'volume-a@snapshot-s'])

    def test_an_aborted_revert_to_another_snapshot(self) -> None:
        a = volume('a')
        self.driver.create_volume(a)
        s, t = snapshot('s', a), snapshot('t', a)
        self.driver.create_snapshot(s)
        self.cluster.write('volume-a', 'one')
        self.driver.create_snapshot(t)
        self.driver._cli.create('volume-a.revert', parent='volume-a@snapshot-s')
        self.driver.revert_to_snapshot(None, a, t)
        self.assertEqual(self.cluster.content('volume-a'), ['one'])

    def test_clone_of_an_image_volume(self) -> None:
        source = volume('i', host='here@fast#hdd')
        self.driver.create_volume(source)
        self.driver._image_volume = lambda *a: source
        for name in ('a', 'b'):
            self.assertEqual(({}, True), self.driver.clone_image(
                None, volume(name), None, {}, None))
        self.assertEqual(self.names(), ['volume-a', 'volume-b', 'volume-i',
                                        'volume-i@.clone_snap'])

    def test_other_images_are_not_cloned(self) -> None:
        for location in (None, (None, None), ('rbd://x', []),
                         (None, [{'url': 'file:///x'}])):
            self.assertEqual(({}, False), self.driver.clone_image(
                None, volume('a'), location, {}, None))


class ErrorTest(Case):
    """Every failure is an exception of Cinder with our words in it."""

    def test_missing_things(self) -> None:
        a = volume('a')
        for error, words, call in (
                (exception.ExtendVolumeError, 'volume-a does not exist',
                 lambda: self.driver.extend_volume(a, 2)),
                (exception.VolumeBackendAPIException,
                 'volume-a does not exist',
                 lambda: self.driver.create_snapshot(snapshot('s', a))),
                (exception.SnapshotUnavailable, 'snapshot-s not found',
                 lambda: self.driver.create_volume_from_snapshot(
                     volume('b'), snapshot('s', a))),
                (exception.VolumeBackendAPIException, 'does not exist',
                 lambda: self.driver.create_cloned_volume(volume('b'), a)),
                (exception.VolumeBackendAPIException, 'Pool slow does not',
                 lambda: self.driver.create_volume(
                     volume('b', host='here@fast#slow'))),
                (exception.SnapshotUnavailable, 'not found',
                 lambda: self.driver.revert_to_snapshot(
                     None, a, snapshot('s', a)))):
            with self.assertRaisesRegex(error, words):
                call()
        self.assertEqual(self.names(), [])

    def test_text_of_stderr(self) -> None:
        run = lambda *a, **k: (1, '', 'etcd does not answer\n')
        with self.assertRaisesRegex(cli.CliError, '^etcd does not answer$'):
            cli.Cli(run, cli.Cluster()).pools()
        run = lambda *a, **k: (5, '', '')
        with self.assertRaisesRegex(cli.CliError, 'df ended with exit code 5'):
            cli.Cli(run, cli.Cluster()).pools()
        run = lambda *a, **k: (0, 'warning', '')
        with self.assertRaisesRegex(cli.CliError, 'something else than JSON'):
            cli.Cli(run, cli.Cluster()).pools()

    def test_missing_program(self) -> None:
        def run(*command: str, **kwargs: Any) -> Any:
            raise FileNotFoundError(2, 'No such file or directory')

        c = cli.Cli(run, cli.Cluster())
        for call in (c.pools, lambda: c.remove('x')):
            with self.assertRaisesRegex(cli.CliError, 'vitastor-client'):
                call()

    def test_names_of_others_are_not_taken(self) -> None:
        self.cluster._add('volume-a', 7 * GIB, 1, None)
        with self.assertRaisesRegex(exception.VolumeBackendAPIException,
                                    'already exists'):
            self.driver.create_volume(volume('a', 2))
        self.assertEqual(self.size('volume-a'), 7)

    def test_an_earlier_attempt_with_another_size(self) -> None:
        # Cinder fills its cache with a volume of the size of the image.
        self.driver.create_volume(volume('a', 1))
        self.driver.create_volume(volume('a', 3))
        self.assertEqual(self.size('volume-a'), 3)

    def test_somebody_else_is_faster(self) -> None:
        self.cluster.busy = 2
        self.driver.create_volume(volume('a'))
        self.cluster.busy = 99
        with self.assertRaisesRegex(exception.VolumeBackendAPIException,
                                    'somebody else'):
            self.driver.delete_volume(volume('a'))

    def test_setup(self) -> None:
        self.start(vitastor_pool_id='ssd,nope')
        with self.assertRaisesRegex(exception.VolumeBackendAPIException,
                                    'pool nope.*there are: ssd, hdd'):
            self.driver.check_for_setup_error()


class KillTest(Case):
    """cinder-volume is killed around every command, and what the user does
    then (the same again, or delete) leaves nothing behind."""

    def kill_everywhere(self, prepare: Callable[[], Any],
                        act: Callable[[], Any],
                        then: Callable[[int], Any]) -> None:
        """Kill act before and after each of its commands; then check."""
        for after in (False, True):
            for n in range(100):
                self.start()
                prepare()
                self.cluster.kill_at = len(self.cluster.commands) + n
                self.cluster.kill_after = after
                try:
                    act()
                except Killed:
                    pass
                finished = self.cluster.kill_at >= len(self.cluster.commands)
                self.cluster.kill_at = -1
                self.start(self.cluster)
                with self.subTest(killed_at=n, after=after):
                    then(n)
                if finished:
                    break
            self.assertGreater(n, 0)

    def test_delete_after_any_creation(self) -> None:
        a, b = volume('a'), volume('b')
        s = snapshot('s', a)

        def prepare() -> None:
            self.driver.create_volume(a)
            self.driver.create_snapshot(s)

        def clean(_: int) -> None:
            self.driver.delete_volume(b)
            self.assertEqual(self.names(),
                             ['volume-a', 'volume-a@snapshot-s'])

        for act in (lambda: self.driver.create_volume(b),
                    lambda: self.driver.create_cloned_volume(b, a),
                    lambda: self.driver.create_volume_from_snapshot(b, s)):
            self.kill_everywhere(prepare, act, clean)

    def test_any_creation_again(self) -> None:
        a, b = volume('a'), volume('b', 2)
        s = snapshot('s', a)

        def prepare() -> None:
            self.driver.create_volume(a)
            self.cluster.write('volume-a', 'data')
            self.driver.create_snapshot(s)

        for act, content in (
                (lambda: self.driver.create_volume(b), []),
                (lambda: self.driver.create_cloned_volume(b, a), ['data']),
                (lambda: self.driver.create_volume_from_snapshot(b, s),
                 ['data'])):
            def again(_: int) -> None:
                act()
                self.assertEqual(self.cluster.content('volume-b'), content)
                self.assertEqual(self.size('volume-b'), 2)
                self.driver.delete_volume(b)
                self.assertEqual(self.names(),
                                 ['volume-a', 'volume-a@snapshot-s'])

            self.kill_everywhere(prepare, act, again)

    def _reverting(self) -> tuple[Any, Any, Callable[[], Any]]:
        a = volume('a')
        s = snapshot('s', a)

        def prepare() -> None:
            self.driver.create_volume(a)
            self.cluster.write('volume-a', 'one')
            self.driver.create_snapshot(s)
            self.cluster.write('volume-a', 'two')

        return a, s, prepare

    def test_revert_again(self) -> None:
        a, s, prepare = self._reverting()

        def act() -> None:
            self.driver.revert_to_snapshot(None, a, s)

        def again(_: int) -> None:
            act()
            self.assertEqual(self.cluster.content('volume-a'), ['one'])
            self.assertEqual(self.names(),
                             ['volume-a', 'volume-a@snapshot-s'])

        self.kill_everywhere(prepare, act, again)

    def test_delete_after_revert(self) -> None:
        a, s, prepare = self._reverting()

        def gone(_: int) -> None:
            self.driver.delete_snapshot(s)
            self.driver.delete_volume(a)
            self.assertEqual(self.names(), [])

        self.kill_everywhere(
            prepare, lambda: self.driver.revert_to_snapshot(None, a, s), gone)

    def test_migrate_again(self) -> None:
        a = volume('a')
        to = {'host': 'here@fast#hdd', 'capabilities': {
            'location_info': self.driver._settings.location(
                types.SimpleNamespace(id=2))}}

        def prepare() -> None:
            self.driver.create_volume(a)
            self.cluster.write('volume-a', 'one')

        def act() -> None:
            self.assertEqual((True, {}),
                             self.driver.migrate_volume(None, a, to))

        def again(_: int) -> None:
            self.cluster.write('volume-a', 'two')  # a server goes on
            act()
            self.assertEqual(self.names(), ['volume-a'])
            self.assertEqual(self.cluster.images['volume-a'].pool, 2)
            self.assertEqual(self.cluster.content('volume-a'),
                             ['one', 'two'])

        self.kill_everywhere(prepare, act, again)

    def test_manage_again(self) -> None:
        def prepare() -> None:
            self.cluster._add('old', GIB, 1, None)
            self.driver._cli.snapshot('old', 'x')
            self.driver._cli.snapshot('old', 'y')
            self.cluster._add('older', GIB, 1, None)

        def act() -> None:
            self.driver.manage_existing(volume('a'), {'source-name': 'old'})

        def again(_: int) -> None:
            act()
            self.assertEqual(self.names(), ['older', 'volume-a',
                                            'volume-a@x', 'volume-a@y'])

        self.kill_everywhere(prepare, act, again)

    def test_devices(self) -> None:
        a = volume('a')

        def act() -> None:
            self.driver.initialize_connection(a, HERE)
            self.driver.terminate_connection(a, HERE)

        def gone(n: int) -> None:
            link = self.driver.initialize_connection(a, HERE)
            path = link['data']['device_path']
            self.assertEqual(os.readlink(path), '/dev/ublkb0')
            self.assertEqual(list(self.cluster.devices['vitastor-ublk']),
                             ['/dev/ublkb0'])
            self.driver.delete_volume(a)
            self.assertEqual(self.names(), [])
            self.assertEqual(self.cluster.devices['vitastor-ublk'], {})
            self.assertEqual(os.listdir(self.links), [])

        self.kill_everywhere(lambda: self.driver.create_volume(a), act, gone)


class ConnectionTest(Case):
    """Ways to volumes."""

    def test_device(self) -> None:
        a = volume('a')
        self.driver.create_volume(a)
        self.driver.validate_connector(HERE)
        info = self.driver.initialize_connection(a, HERE)
        self.assertEqual(info['driver_volume_type'], 'local')
        self.assertEqual(info['data']['device_path'],
                         os.path.join(self.links, 'volume-a'))
        self.assertEqual(info, self.driver.initialize_connection(a, HERE))
        self.assertEqual(len(self.cluster.devices['vitastor-ublk']), 1)

    def test_the_last_attachment_removes_the_device(self) -> None:
        a = volume('a')
        self.driver.create_volume(a)
        self.driver.initialize_connection(a, HERE)
        a.volume_attachment = [Attachment(HERE), Attachment(HERE)]
        self.assertTrue(self.driver.terminate_connection(a, HERE))
        self.assertEqual(len(os.listdir(self.links)), 1)
        a.volume_attachment = [Attachment(HERE), Attachment(FAR)]
        self.assertFalse(self.driver.terminate_connection(a, FAR))
        self.assertEqual(len(os.listdir(self.links)), 1)
        self.assertFalse(self.driver.terminate_connection(a, HERE))
        self.assertEqual(os.listdir(self.links), [])
        self.assertFalse(self.driver.terminate_connection(a, None,
                                                          force=True))

    def test_another_host_is_told_what_to_do(self) -> None:
        with self.assertRaisesRegex(exception.InvalidConnectorException,
                                    'vitastor_attach = target'):
            self.driver.validate_connector(FAR)

    def test_a_patched_nova(self) -> None:
        connector = {**FAR, 'vitastor': True}
        self.driver.validate_connector(connector)
        info = self.driver.initialize_connection(volume('a'), connector)
        self.assertEqual(info, {'driver_volume_type': 'vitastor', 'data': {
            'config_path': '/nonexistent', 'etcd_address': '10.0.0.9:2379',
            'etcd_prefix': '/vitastor', 'name': 'volume-a', 'discard': True,
            'device': True,
            'logical_block_size': '512', 'physical_block_size': '4096'}})
        self.driver.terminate_connection(volume('a'), connector)
        self.start(vitastor_attach='network')
        self.driver.validate_connector(FAR)
        info['data']['device'] = False
        self.assertEqual(info, self.driver.initialize_connection(
            volume('a'), FAR))
        self.driver.terminate_connection(volume('a'), FAR)
        self.assertEqual(self.cluster.commands, [])

    def test_snapshots_are_read_only_devices(self) -> None:
        a = volume('a')
        s = snapshot('s', a)
        self.driver.create_volume(a)
        self.driver.create_snapshot(s)
        self.driver.create_export_snapshot(None, s, HERE)
        info = self.driver.initialize_connection_snapshot(s, HERE)
        self.assertTrue(info['data']['device_path'].endswith(
            '/volume-a@snapshot-s'))
        self.assertIn('--readonly', self.last('map'))
        self.driver.terminate_connection_snapshot(s, HERE)
        self.driver.remove_export_snapshot(None, s)
        self.assertEqual(os.listdir(self.links), [])

    def test_devices_come_back_after_a_reboot(self) -> None:
        a, b = volume('a'), volume('b')
        for v in (a, b):
            self.driver.create_volume(v)
            self.driver.initialize_connection(v, HERE)
            v.volume_attachment = [Attachment(HERE)]
        self.cluster.devices['vitastor-ublk'].clear()
        self.driver.ensure_export(None, b)
        # The number is used again: the link of the other volume is gone.
        self.assertEqual(os.listdir(self.links), ['volume-b'])
        self.driver.ensure_export(None, a)
        self.assertEqual(
            {n: os.readlink(os.path.join(self.links, n))
             for n in os.listdir(self.links)},
            {'volume-b': '/dev/ublkb0', 'volume-a': '/dev/ublkb1'})
        self.driver.ensure_export(None, volume('c'))
        self.assertEqual(len(os.listdir(self.links)), 2)

    def test_no_program(self) -> None:
        self.cluster.devices.clear()
        with self.assertRaisesRegex(
                exception.VolumeBackendAPIException,
                'vitastor-vduse: No such file.*vitastor-nbd: No such file'):
            self.driver.initialize_connection(volume('a'), HERE)

    def test_no_folder_for_links(self) -> None:
        self.start(vitastor_device_dir='/nonexistent/x')
        self.driver.create_volume(volume('a'))
        with self.assertRaisesRegex(exception.VolumeBackendAPIException,
                                    'must exist and belong'):
            self.driver.initialize_connection(volume('a'), HERE)
        self.assertEqual(self.cluster.devices['vitastor-ublk'], {})

    def test_no_second_device_while_the_first_is_in_doubt(self) -> None:
        self.driver.create_volume(volume('a'))
        os.symlink('/dev/null', os.path.join(self.links, 'volume-a'))
        del self.cluster.devices['vitastor-ublk']
        with self.assertRaisesRegex(exception.VolumeBackendAPIException,
                                    'has a device already'):
            self.driver.initialize_connection(volume('a'), HERE)


class Target:
    """A target driver of Cinder."""

    def __init__(self, **kwargs: Any):
        self.calls: list[str] = []

    def create_export(self, context: Any, v: Any, path: str) -> dict:
        """Export a device."""
        self.calls.append(f'export {os.path.basename(path)}')
        return {'provider_location': 'here:3260'}

    ensure_export = create_export

    def __getattr__(self, name: str) -> Any:
        return lambda *a, **k: self.calls.append(name)


class TargetTest(Case):
    """Devices behind a target of Cinder."""

    def test_life(self) -> None:
        target = Target()
        vitastor.VitastorDriver._target = lambda _: target
        self.start(vitastor_attach='target')
        a = volume('a')
        self.driver.create_volume(a)
        self.driver.validate_connector(FAR)
        self.assertEqual(self.driver.create_export(None, a, FAR),
                         {'provider_location': 'here:3260'})
        self.driver.initialize_connection(a, FAR)
        a.volume_attachment = [Attachment(FAR), Attachment(HERE)]
        self.driver.ensure_export(None, a)
        self.assertTrue(self.driver.terminate_connection(a, FAR))
        a.volume_attachment.pop()
        self.assertFalse(self.driver.terminate_connection(a, FAR))
        self.driver.remove_export(None, a)
        self.assertEqual(target.calls, [
            'validate_connector', 'export volume-a', 'initialize_connection',
            'export volume-a', 'terminate_connection',
            'terminate_connection', 'remove_export'])
        self.assertEqual(self.cluster.devices['vitastor-ublk'], {})


class StatsTest(Case):
    """What the scheduler is told."""

    def test_pools(self) -> None:
        self.driver.check_for_setup_error()
        self.driver.create_volume(volume('a', 3))
        self.driver.create_snapshot(snapshot('s', volume('a')))
        found = self.driver.get_volume_stats(refresh=True)
        self.assertEqual(found['volume_backend_name'], 'fast')
        self.assertEqual(found['backend_state'], 'up')
        self.assertEqual(found['storage_protocol'], 'vitastor')
        ssd, hdd = found['pools']
        self.assertEqual(
            [ssd[k] for k in ('pool_name', 'total_capacity_gb',
                              'free_capacity_gb', 'provisioned_capacity_gb',
                              'total_volumes', 'multiattach')],
            ['ssd', 100, 70, 3, 1, True])
        self.assertEqual(hdd['provisioned_capacity_gb'], 0)
        self.assertEqual(self.driver.get_pool(volume('a')), 'ssd')

    def test_one_pool_is_the_backend(self) -> None:
        self.start(vitastor_pool_id='2')
        found = self.driver.get_volume_stats(refresh=True)
        self.assertNotIn('pools', found)
        self.assertEqual(found['total_capacity_gb'], 100)
        self.driver.create_volume(volume('a', host='here@fast#fast'))
        self.assertEqual(self.cluster.images['volume-a'].pool, 2)
        self.assertEqual(self.driver.get_pool(volume('a')), 'fast')

    def test_down(self) -> None:
        self.driver.get_volume_stats(refresh=True)
        self.cluster.fail['df'] = Failed(1, 'etcd does not answer')
        found = self.driver.get_volume_stats(refresh=True)
        self.assertEqual(found['backend_state'], 'down')
        self.assertEqual(len(found['pools']), 2)
        self.cluster.fail.clear()
        found = self.driver.get_volume_stats(refresh=True)
        self.assertEqual(found['backend_state'], 'up')

    def test_multiattach_is_told_truly(self) -> None:
        path = os.path.join(self.links, 'vitastor.conf')
        with open(path, 'w', encoding='utf-8') as f:
            f.write('{"etcd_address": ["a:1", "b:2/v3"], '
                    '"client_enable_writeback": true}')
        self.start(vitastor_config_path=path, vitastor_etcd_address='')
        pool, _ = self.driver.get_volume_stats(refresh=True)['pools']
        self.assertFalse(pool['multiattach'])
        info = self.driver.initialize_connection(
            volume('a'), {'vitastor': True})
        self.assertEqual(info['data']['etcd_address'], 'a:1,b:2/v3')


class MigrationTest(Case):
    """Types, pools, other backends."""

    def to(self, pool: int, **changes: Any) -> dict:
        """A host as the scheduler describes it."""
        self.start(self.cluster, **changes)
        location = self.driver._settings.location(
            types.SimpleNamespace(id=pool))
        self.start(self.cluster)
        return {'host': 'here@fast#hdd',
                'capabilities': {'location_info': location}}

    def test_another_cluster_is_left_to_cinder(self) -> None:
        self.driver.create_volume(volume('a'))
        for host in ({'host': 'x@y'}, self.to(2, vitastor_etcd_address='b'),
                     {'host': 'x', 'capabilities': {'location_info': 'lvm'}}):
            self.assertEqual((False, None), self.driver.migrate_volume(
                None, volume('a'), host))

    def test_retype(self) -> None:
        a = volume('a')
        self.driver.create_volume(a)
        here = {'host': a.host}
        retype = self.driver.retype
        self.assertEqual(retype(None, a, None, {}, here), (True, {}))
        self.assertEqual(retype(None, a, None, {'encryption': {'x': 1}},
                                here), (False, None))
        a.snapshots = ['s']
        self.assertEqual(retype(None, a, None, {}, self.to(2)),
                         (False, None))
        a.snapshots = []
        self.assertEqual(retype(None, a, None, {}, self.to(2)), (True, {}))
        self.assertEqual(self.cluster.images['volume-a'].pool, 2)

    def test_missing_volume(self) -> None:
        with self.assertRaisesRegex(exception.VolumeMigrationFailed,
                                    'does not exist'):
            self.driver.migrate_volume(None, volume('a'), self.to(2))

    def test_copied_volume_takes_the_name(self) -> None:
        a, b = volume('a'), volume('b')
        self.driver.create_volume(b)
        update = self.driver.update_migrated_volume(None, a, b, 'available')
        self.assertIsNone(update['_name_id'])
        self.assertEqual(self.names(), ['volume-a'])

    def test_copied_volume_in_the_same_cluster(self) -> None:
        a, b = volume('a'), volume('b')
        self.driver.create_volume(a)
        self.driver.create_volume(b)
        update = self.driver.update_migrated_volume(None, a, b, 'available')
        self.assertEqual(update['_name_id'], 'b')
        self.assertEqual(self.names(), ['volume-a', 'volume-b'])


class ManageTest(Case):
    """Images that were there before Cinder."""

    def setUp(self) -> None:
        super().setUp()
        self.cluster._add('old', GIB + 4096, 1, None)
        self.driver._cli.snapshot('old', 'x')

    def test_lists(self) -> None:
        a = volume('a')
        self.driver.create_volume(a)
        self.driver.create_cloned_volume(volume('b'), a)
        entries = self.driver.get_manageable_volumes(
            [a], None, 100, 0, ['reference'], ['asc'])
        self.assertEqual(
            [(e['reference']['source-name'], e['size'], e['safe_to_manage'],
              e['cinder_id']) for e in entries],
            [('old', 2, True, None), ('volume-a', 1, False, 'a'),
             ('volume-b', 1, True, None)])
        entries = self.driver.get_manageable_snapshots(
            [], None, 100, 0, ['reference'], ['asc'])
        self.assertEqual(
            [(e['reference']['source-name'], e['safe_to_manage'],
              e['reason_not_safe'], e['source_reference']['source-name'])
             for e in entries],
            [('old@x', True, None, 'old'),
             ('volume-a@volume-b.clone_snap', False, 'used for clone snap',
              'volume-a')])

    def test_volume_and_snapshot(self) -> None:
        a, ref = volume('a', 2), {'source-name': 'old'}
        self.assertEqual(self.driver.manage_existing_get_size(a, ref), 2)
        self.driver.manage_existing(a, ref)
        s, ref = snapshot('s', a), {'source-name': 'volume-a@x'}
        for ref in (ref, {'source-name': 'x'}):
            self.assertEqual(
                self.driver.manage_existing_snapshot_get_size(s, ref), 2)
        self.driver.manage_existing_snapshot(s, ref)
        self.driver.manage_existing_snapshot(s, ref)
        self.assertEqual(self.names(), ['volume-a', 'volume-a@snapshot-s'])
        self.driver.unmanage_snapshot(s)
        self.driver.unmanage(a)
        self.assertEqual(self.names(), ['volume-a', 'volume-a@snapshot-s'])

    def test_bad_references(self) -> None:
        a, s = volume('a'), snapshot('s', volume('a'))
        self.start(self.cluster, vitastor_pool_id='2')
        for ref, words in (({}, 'source-name'), ({'source-id': 1}, 'source'),
                           ({'source-name': 'none'}, 'no such image'),
                           ({'source-name': 'old@x'}, 'no name of an image'),
                           ({'source-name': '--force'}, 'no name of an'),
                           ({'source-name': 'old'}, 'not one of this')):
            with self.assertRaisesRegex(
                    exception.ManageExistingInvalidReference, words):
                self.driver.manage_existing(a, ref)
        for ref, words in (({'source-name': 'old@x'}, 'not a snapshot of'),
                           ({'source-name': 'y'}, 'no such image')):
            with self.assertRaisesRegex(
                    exception.ManageExistingInvalidReference, words):
                self.driver.manage_existing_snapshot(s, ref)


if __name__ == '__main__':
    unittest.main()
