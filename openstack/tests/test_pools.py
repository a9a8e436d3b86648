"""Statistics, migration between pools, images that Cinder did not make."""

from __future__ import annotations

import os
import types
import unittest
from typing import Any

from case import Case, snapshot, volume
from fake_cluster import GIB, Failed

from cinder import exception


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
