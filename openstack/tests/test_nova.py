"""Nova's side: devices of a host, and disks for libvirt, with Debian's Nova.

Run in a copy of Nova to which the patch was applied: nova_copy.py.
"""

from __future__ import annotations

import json
from unittest import mock

from lxml import etree
from oslo_concurrency import processutils

from nova import exception
from nova import test
from nova.tests.unit.virt.libvirt.volume import test_volume
from nova.virt.libvirt import driver
from nova.virt.libvirt import host
from nova.virt.libvirt.volume import vitastor

DATA = {'name': 'volume-1', 'etcd_address': 'http://10.0.0.1:2379/v3,[::1]',
        'etcd_prefix': '/vitastor', 'config_path': '/etc/v.conf'}


class VitastorTest(test_volume.LibvirtVolumeBaseTestCase):
    """The volume driver."""

    def setUp(self) -> None:
        super().setUp()
        self.driver = vitastor.LibvirtVitastorVolumeDriver(self.fake_host)
        self.devices: dict[str, str] = {}
        self.useFixture(test.fixtures.MonkeyPatch(
            'nova.virt.libvirt.volume.vitastor.run', self.run))

    def run_program(self, program: str, verb: str, *words: str) -> str:
        """A host with vitastor-ublk."""
        if program != 'vitastor-ublk':
            raise processutils.ProcessExecutionError(stderr='not installed')
        if verb == 'ls':
            return json.dumps({d: {'image': i}
                               for d, i in self.devices.items()})
        if verb == 'map':
            self.assertIn('--config_path', words)
            self.devices['/dev/ublkb0'] = words[words.index('--image') + 1]
            return '/dev/ublkb0\n'
        del self.devices[words[0]]
        return ''

    def run(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        """Both unittest's run and the program's."""
        if args and isinstance(args[0], str):
            return self.run_program(*args)
        return super().run(*args, **kwargs)

    def test_registered(self) -> None:
        """The patch has told the libvirt driver."""
        self.assertEqual(
            driver.VOLUME_DRIVERS['vitastor'],
            'nova.virt.libvirt.volume.vitastor.LibvirtVitastorVolumeDriver')
        with mock.patch('os_brick.initiator.connector.'
                        'get_connector_properties', return_value={'ip': 'x'}):
            self.assertEqual(
                driver.LibvirtDriver.get_volume_connector(None, None),
                {'ip': 'x', 'vitastor': True})
        self.assertTrue(host)

    def test_device(self) -> None:
        """Devices are made once and removed once."""
        info = {'driver_volume_type': 'vitastor',
                'data': {**DATA, 'device': True}}
        for _ in range(2):
            self.driver.connect_volume(info, None)
            self.assertEqual(self.devices, {'/dev/ublkb0': 'volume-1'})
        xml = self.driver.get_config(info, self.disk_info).format_dom()
        self.assertEqual((xml.get('type'), xml.find('source').get('dev')),
                         ('block', '/dev/ublkb0'))
        for _ in range(2):
            self.driver.disconnect_volume(info, None)
            self.assertEqual(self.devices, {})

    def test_no_program(self) -> None:
        """The error says what each program said."""
        self.run_program = mock.Mock(
            side_effect=processutils.ProcessExecutionError(stderr='no'))
        self.assertRaisesRegex(
            exception.InternalError, 'vitastor-vduse: no; vitastor-ublk: no',
            self.driver.connect_volume, {'data': {**DATA, 'device': True}},
            None)

    def test_network_disk(self) -> None:
        """What a patched libvirt is told."""
        info = {'driver_volume_type': 'vitastor', 'serial': 's',
                'data': {**DATA, 'qos_specs': {'total_iops_sec': '100'}}}
        self.driver.connect_volume(info, None)
        xml = self.driver.get_config(info, self.disk_info).format_dom()
        source = xml.find('source')
        self.assertEqual(
            etree.tostring(source).decode(),
            '<source protocol="vitastor" name="volume-1" query="/vitastor">'
            '<host name="10.0.0.1" port="2379"/>'
            '<host name="[::1]" port="2379"/>'
            '<config file="/etc/v.conf"/></source>')
        self.assertEqual(xml.find('iotune/total_iops_sec').text, '100')
        self.driver.disconnect_volume(info, None)
        self.assertEqual(self.driver.extend_volume(info, None, 7), 7)

    def test_addresses(self) -> None:
        """What libvirt cannot be told is refused."""
        self.assertEqual(vitastor.hosts(['a', 'http://b:1/v3']),
                         (['a', 'b'], ['2379', '1']))
        self.assertEqual(vitastor.hosts(''), ([], []))
        for wrong in ('https://a:1', 'a:1/prefix'):
            self.assertRaises(exception.InvalidVolume, vitastor.hosts, wrong)
