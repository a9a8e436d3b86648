"""Ways to volumes: devices, targets, hosts with a patched Nova."""

from __future__ import annotations

import os
import unittest
from typing import Any

from case import FAR, HERE, Attachment, Case, snapshot, volume

from cinder import exception
from cinder.volume.drivers import vitastor


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
        self.driver.initialize_connection_snapshot(s, HERE)
        self.driver.delete_snapshot(s)  # its backup was killed
        self.assertEqual(os.listdir(self.links), [])
        self.assertEqual(self.cluster.devices['vitastor-ublk'], {})

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


if __name__ == '__main__':
    unittest.main()
