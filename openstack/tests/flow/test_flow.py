"""The flow of real requests through Cinder's API, scheduler and volume
service onto a real cluster.  What the API says is compared with what
vitastor-cli sees, because the API would not notice a wrong resize.

    VITASTOR_CONF=... PATH=... python3 -m unittest -v test_flow
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import rig  # noqa: E402
from rig import GIB  # noqa: E402

CONNECTOR = {'host': 'here', 'ip': '127.0.0.1', 'initiator': 'iqn.x',
             'multipath': False, 'os_type': 'linux', 'platform': 'x86_64',
             'do_local_attach': False}
FAR = {**CONNECTOR, 'host': 'far', 'ip': '10.1.1.1'}


class Flow(unittest.TestCase):
    """Every test begins and ends with an empty cluster."""

    cinder: rig.Cinder

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory(prefix='vitastor-cinder-')
        cls.addClassCleanup(folder.cleanup)
        cls.cinder = rig.Cinder(folder.name)
        cls.addClassCleanup(cls.cinder.kill)
        cls.cinder.start()
        cls.cinder.volume_type('fast', volume_backend_name='fast',
                               multiattach='<is> True')
        cls.cinder.volume_type('parity', volume_backend_name='all',
                               pool_name='parity')
        cls.all = cls.cinder.volume_type('all', volume_backend_name='all',
                                         pool_name='copies')

    def setUp(self) -> None:
        self.assertEqual(self.cinder.images(), {})

    def tearDown(self) -> None:
        self.cinder.cli('rm', '--matching', '*')
        for kind in ('devices', 'links', 'conversion'):
            self.assertEqual(os.listdir(os.path.join(self.cinder.dir, kind)),
                             [], f'{kind} are left')

    def size(self, volume: str) -> float:
        """What the cluster says, in GiB."""
        return self.cinder.images()[f'volume-{volume}']['size'] / GIB

    # ---- volumes

    def test_life_of_a_volume(self) -> None:
        c = self.cinder
        v = c.volume(size=2)
        self.assertEqual(self.size(v), 2)
        c.act(v, 'os-extend', new_size=3)
        c.wait(f'/volumes/{v}')
        self.assertEqual(self.size(v), 3)
        self.assertEqual(c.get(f'/volumes/{v}')['volume']['size'], 3)
        c.delete(f'/volumes/{v}')
        self.assertEqual(c.images(), {})

    def test_snapshots_and_clones(self) -> None:
        c = self.cinder
        v = c.volume()
        image = f'volume-{v}'
        c.write(image, b'one')
        s = c.snapshot(v)
        c.write(image, b'two')
        from_snapshot = c.volume(snapshot_id=s, size=2)
        clone = c.volume(source_volid=v, size=3)
        self.assertEqual(c.read(f'volume-{from_snapshot}'), b'one')
        self.assertEqual(c.read(f'volume-{clone}'), b'two')
        self.assertEqual((self.size(from_snapshot), self.size(clone)),
                         (2, 3))
        c.act(v, 'revert', snapshot_id=s)
        c.wait(f'/volumes/{v}')
        self.assertEqual(c.read(image), b'one')
        c.delete(f'/volumes/{v}?cascade=true')
        self.assertEqual(c.read(f'volume-{from_snapshot}'), b'one')
        self.assertEqual(c.read(f'volume-{clone}'), b'two')
        c.delete(f'/volumes/{clone}')
        c.delete(f'/volumes/{from_snapshot}')
        self.assertEqual(c.images(), {})

    def test_snapshot_between(self) -> None:
        c = self.cinder
        v = c.volume()
        for data in (b'one', b'two', b'three'):
            c.write(f'volume-{v}', data)
            s = c.snapshot(v)
            if data == b'two':
                middle = s
        c.delete(f'/snapshots/{middle}')
        self.assertEqual(len(c.images()), 3)
        self.assertEqual(c.read(f'volume-{v}'), b'three')

    def test_pools_and_statistics(self) -> None:
        c = self.cinder
        pools = {p['name']: p['capabilities'] for p in
                 c.get('/scheduler-stats/get_pools?detail=true')['pools']}
        self.assertEqual(sorted(pools), ['here@all#copies', 'here@all#parity',
                                         'here@fast#fast'])
        df = {p['name']: p for p in json.loads(c.cli('--json', 'df'))}
        for name, pool in (('here@fast#fast', 'copies'),
                           ('here@all#copies', 'copies'),
                           ('here@all#parity', 'parity')):
            told, real = pools[name], df[pool]
            self.assertAlmostEqual(
                told['total_capacity_gb'] * GIB,
                real['total_raw'] / real['raw_to_usable'], delta=GIB / 50)
            self.assertAlmostEqual(told['free_capacity_gb'] * GIB,
                                   real['max_available'], delta=GIB / 20)
            self.assertTrue(told['multiattach'])
        v = c.volume(volume_type='parity')
        self.assertEqual(c.images()[f'volume-{v}']['pool_name'], 'parity')

    # ---- attaching

    def test_device_with_quality_of_service(self) -> None:
        c = self.cinder
        qos = c.call('POST', '/qos-specs', {'qos_specs': {
            'name': 'slow', 'consumer': 'front-end',
            'total_iops_sec': '100'}})['qos_specs']['id']
        kind = c.volume_type('slow', volume_backend_name='fast')
        c.get(f'/qos-specs/{qos}/associate?vol_type_id={kind}')
        v = c.volume(volume_type='slow')
        info = c.act(v, 'os-initialize_connection',
                     connector=CONNECTOR)['connection_info']
        path = info['data']['device_path']
        self.assertEqual((info['driver_volume_type'],
                          info['data']['qos_specs']),
                         ('local', {'total_iops_sec': '100'}))
        with open(path, 'r+b') as device:
            device.write(b'through the device')
        self.assertEqual(c.read(f'volume-{v}'), b'through the device')
        c.act(v, 'os-terminate_connection', connector=CONNECTOR)
        self.assertFalse(os.path.lexists(path))

    def test_attachments(self) -> None:
        c = self.cinder
        v = c.volume()
        ids = []
        for server in ('11111111-1111-1111-1111-111111111111',
                       '22222222-2222-2222-2222-222222222222'):
            answer = c.call('POST', '/attachments', {'attachment': {
                'instance_uuid': server, 'volume_uuid': v,
                'connector': CONNECTOR}})['attachment']
            ids.append(answer['id'])
            c.call('POST', f'/attachments/{answer["id"]}/action',
                   {'os-complete': {}})
        c.wait(f'/volumes/{v}', 'in-use')
        path = answer['connection_info']['device_path']
        self.assertTrue(os.path.exists(path))
        self._refuse_snapshot(v)
        c.call('DELETE', f'/attachments/{ids[0]}')
        self.assertTrue(os.path.exists(path))
        s = c.snapshot(v, force=True)
        c.call('DELETE', f'/attachments/{ids[1]}')
        self.assertFalse(os.path.lexists(path))
        c.wait(f'/volumes/{v}')
        c.delete(f'/snapshots/{s}')

    def _refuse_snapshot(self, v: str) -> None:
        c = self.cinder
        s = c.create('snapshot', volume_id=v, force=True)
        c.wait(f'/snapshots/{s}', 'error')
        c.delete(f'/snapshots/{s}')
        self.assertEqual(len(c.images()), 1)

    def test_another_host(self) -> None:
        c = self.cinder
        v = c.volume()
        with self.assertRaises(rig.Refused) as refused:
            c.act(v, 'os-initialize_connection', connector=FAR)
        self.assertIn('vitastor_attach = target', str(refused.exception))
        info = c.act(v, 'os-initialize_connection', connector={
            **FAR, 'vitastor': True})['connection_info']
        self.assertEqual(info['driver_volume_type'], 'vitastor')
        self.assertEqual(info['data']['name'], f'volume-{v}')
        self.assertTrue(info['data']['etcd_address'])

    def test_backup(self) -> None:
        c = self.cinder
        v = c.volume()
        c.write(f'volume-{v}', b'to be kept')
        b = c.create('backup', volume_id=v, container='b')
        c.wait(f'/backups/{b}')
        c.wait(f'/volumes/{v}')
        c.write(f'volume-{v}', b'lost')
        to = c.call('POST', f'/backups/{b}/restore',
                    {'restore': {'volume_id': v}})['restore']['volume_id']
        c.wait(f'/backups/{b}')
        c.wait(f'/volumes/{to}')
        self.assertEqual(c.read(f'volume-{v}'), b'to be kept')
        c.delete(f'/backups/{b}')

    # ---- Glance

    def _image(self, name: str, file_format: str, source: str) -> str:
        path = os.path.join(self.cinder.dir, 'images', name)
        subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', file_format,
                        source, path], check=True)
        with open(path + '.json', 'w', encoding='utf-8') as f:
            json.dump({'id': name, 'name': name, 'status': 'active',
                       'disk_format': file_format, 'owner': rig.PROJECT,
                       'container_format': 'bare', 'properties': {},
                       'size': os.path.getsize(path), 'min_disk': 0,
                       'min_ram': 0}, f)
        return name

    def test_images_both_ways(self) -> None:
        c = self.cinder
        data = os.urandom(1 << 20) + b'\0' * (3 << 20) + b'end'
        raw = os.path.join(c.dir, 'raw')
        with open(raw, 'wb') as f:
            f.write(data)
            f.truncate(8 << 20)
        image = self._image('3b0d5c1e-0000-4000-8000-000000000001', 'qcow2',
                            raw)
        v = c.volume(imageRef=image, size=2)
        self.assertEqual(self.size(v), 2)
        self.assertEqual(c.read(f'volume-{v}', 8 << 20), data)
        answer = c.act(v, 'os-volume_upload_image', image_name='copy',
                       disk_format='qcow2', container_format='bare')
        copy = answer['os-volume_upload_image']['image_id']
        c.wait(f'/volumes/{v}')
        path = os.path.join(c.dir, 'images', copy)
        back = os.path.join(c.dir, 'back')
        subprocess.run(['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw',
                        path, back], check=True)
        self.assertEqual(os.path.getsize(back), 2 * GIB)
        with open(back, 'rb') as f:
            self.assertEqual(f.read(8 << 20).rstrip(b'\0'), data)

    def test_images_that_are_volumes(self) -> None:
        c = self.cinder
        raw = os.path.join(c.dir, 'raw')
        with open(raw, 'wb') as f:
            f.write(b'boot')
            f.truncate(1 << 20)
        image = self._image('3b0d5c1e-0000-4000-8000-000000000002', 'raw',
                            raw)
        first = c.volume(imageRef=image, volume_type='all')
        cached = [v['id'] for v in c.get('/volumes/detail')['volumes']
                  if v['name'] == f'image-{image}']
        self.assertEqual(len(cached), 1, 'the cache has one volume')
        second = c.volume(imageRef=image, volume_type='all', size=2)
        self.assertEqual(c.read(f'volume-{second}'), b'boot')
        parent = c.images()[f'volume-{second}']['parent_name']
        self.assertTrue(parent.startswith(f'volume-{cached[0]}@'), parent)
        answer = c.act(first, 'os-volume_upload_image', image_name='copy',
                       disk_format='raw', container_format='bare')
        copy = answer['os-volume_upload_image']['image_id']
        c.wait(f'/volumes/{first}')
        self.assertFalse(os.path.exists(os.path.join(c.dir, 'images', copy)),
                         'an image that is a volume has no file')
        third = c.volume(imageRef=copy, volume_type='all')
        self.assertEqual(c.read(f'volume-{third}'), b'boot')
        self.assertIn('@.clone_snap',
                      c.images()[f'volume-{third}']['parent_name'])

    def test_encryption(self) -> None:
        c = self.cinder
        kind = c.volume_type('secret', volume_backend_name='fast')
        c.call('POST', f'/types/{kind}/encryption', {'encryption': {
            'provider': 'luks', 'control_location': 'front-end',
            'cipher': 'aes-xts-plain64', 'key_size': 256}})
        raw = os.path.join(c.dir, 'raw')
        with open(raw, 'wb') as f:
            f.write(b'readable')
            f.truncate(1 << 20)
        image = self._image('3b0d5c1e-0000-4000-8000-000000000003', 'raw',
                            raw)
        for values in ({}, {'imageRef': image}):
            v = c.volume(volume_type='secret', **values)
            self.assertEqual(self.size(v), 1)
            self.assertEqual(c.read(f'volume-{v}')[:6], b'LUKS\xba\xbe')
            self.assertNotIn(b'readable', c.read(f'volume-{v}', 8 << 20))

    # ---- managing, migrating

    def test_manage(self) -> None:
        c = self.cinder
        c.cli('create', '-s', '1536M', '-p', 'copies', 'old')
        c.write('old', b'before Cinder')
        c.cli('snap-create', 'old@monday')
        host = 'host=here@fast%23fast'
        listed = c.get(f'/manageable_volumes/detail?{host}')
        self.assertEqual(
            [(v['reference'], v['size'], v['safe_to_manage'])
             for v in listed['manageable-volumes']],
            [({'source-name': 'old'}, 2, True)])
        v = c.call('POST', '/manageable_volumes', {'volume': {
            'host': 'here@fast#fast', 'ref': {'source-name': 'old'},
            'volume_type': 'fast'}})['volume']['id']
        c.wait(f'/volumes/{v}')
        self.assertEqual(c.get(f'/volumes/{v}')['volume']['size'], 2)
        listed = c.get(f'/manageable_snapshots/detail?{host}')
        reference, = [s['reference'] for s in listed['manageable-snapshots']]
        self.assertEqual(reference, {'source-name': f'volume-{v}@monday'})
        s = c.call('POST', '/manageable_snapshots', {'snapshot': {
            'volume_id': v, 'ref': reference}})['snapshot']['id']
        c.wait(f'/snapshots/{s}')
        self.assertEqual(sorted(c.images()),
                         [f'volume-{v}', f'volume-{v}@snapshot-{s}'])
        listed = c.get(f'/manageable_volumes/detail?{host}')
        self.assertEqual(listed['manageable-volumes'][0]['reason_not_safe'],
                         'already managed')
        c.call('POST', f'/snapshots/{s}/action', {'os-unmanage': {}})
        c.wait(f'/snapshots/{s}', 'gone')
        c.act(v, 'os-unmanage')
        c.wait(f'/volumes/{v}', 'gone')
        self.assertEqual(c.read(f'volume-{v}'), b'before Cinder')

    def test_retype_moves_to_another_pool(self) -> None:
        c = self.cinder
        v = c.volume(volume_type='all')
        c.write(f'volume-{v}', b'data')
        c.act(v, 'os-retype', new_type='parity', migration_policy='on-demand')
        c.wait(f'/volumes/{v}')
        image = c.images()[f'volume-{v}']
        self.assertEqual((image['pool_name'], image.get('parent_name')),
                         ('parity', None))
        self.assertEqual(c.read(f'volume-{v}'), b'data')
        self.assertEqual(len(c.images()), 1)

    def test_migration(self) -> None:
        c = self.cinder
        c.volume_type('anywhere')
        v = c.volume(volume_type='anywhere')
        c.write(f'volume-{v}', b'data')

        def is_on() -> str:
            return c.get(f'/volumes/{v}')['volume']['os-vol-host-attr:host']

        for force, host, pool in (
                (False, 'here@fast#fast', 'copies'),
                (False, 'here@all#parity', 'parity'),
                (True, 'here@all#copies', 'copies')):
            if is_on() == host:
                continue
            c.act(v, 'os-migrate_volume', host=host, force_host_copy=force)
            rig.wait(f'volume is on {host}', lambda: is_on() == host, 120)
            rig.wait('its source is gone', lambda: len(c.images()) == 1, 60)
            image, = c.images().values()
            self.assertEqual(image['pool_name'], pool)
            self.assertEqual(c.read(image['name']), b'data')
        c.delete(f'/volumes/{v}')
        self.assertEqual(c.images(), {})

    # ---- failures

    def _kill(self, when: str) -> None:
        with open(self.cinder.kill_file, 'w', encoding='utf-8') as f:
            f.write(when)

    def test_killed_while_creating(self) -> None:
        c = self.cinder
        source = c.volume()
        s = c.snapshot(source)
        before = set(c.images())
        for when, values in (
                ('before create', {}), ('after create', {}),
                ('after snap-create', {'source_volid': source}),
                ('after create', {'source_volid': source}),
                ('after create', {'snapshot_id': s})):
            with self.subTest(when, **values):
                self._kill(when)
                v = c.create('volume', size=1, volume_type='fast', **values)
                c.wait_killed()
                c.wait(f'/volumes/{v}', 'error')
                c.delete(f'/volumes/{v}')
                self.assertLessEqual(set(c.images()), before)

    def test_killed_while_reverting_and_deleting(self) -> None:
        c = self.cinder
        v = c.volume()
        c.write(f'volume-{v}', b'one')
        s = c.snapshot(v)
        c.write(f'volume-{v}', b'two')
        for when in ('after create', 'after rm', 'before modify'):
            with self.subTest(when):
                self._kill(when)
                c.act(v, 'revert', snapshot_id=s)
                c.wait_killed()
                c.act(v, 'os-reset_status', status='available')
                c.call('POST', f'/snapshots/{s}/action',
                       {'os-reset_status': {'status': 'available'}})
                c.act(v, 'revert', snapshot_id=s)
                c.wait(f'/volumes/{v}')
                self.assertEqual(c.read(f'volume-{v}'), b'one')
        self.assertEqual(len(c.images()), 2)
        self._kill('after rm')
        c.call('DELETE', f'/snapshots/{s}')
        c.wait_killed()
        c.call('POST', f'/snapshots/{s}/action',
               {'os-reset_status': {'status': 'available'}})
        c.delete(f'/snapshots/{s}')
        self._kill('before rm')
        c.call('DELETE', f'/volumes/{v}')
        c.wait_killed()  # Cinder goes on with the removal by itself
        c.wait(f'/volumes/{v}', 'gone')
        self.assertEqual(c.images(), {})

    def test_errors_are_told(self) -> None:
        c = self.cinder
        v = c.volume()
        c.cli('rm', f'volume-{v}')
        s = c.create('snapshot', volume_id=v)
        c.wait(f'/snapshots/{s}', 'error')
        with open(os.path.join(c.dir, 'cinder.log'), encoding='utf-8') as f:
            self.assertIn(f'Image volume-{v} does not exist', f.read())


if __name__ == '__main__':
    unittest.main()
