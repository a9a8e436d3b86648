"""The driver over a cluster in memory: what it leaves after every failure."""

from __future__ import annotations

import os
import types
import unittest
from collections.abc import Callable
from typing import Any

from case import FAR, HERE, Attachment, Case, snapshot, volume
from fake_cluster import GIB, Killed

from cinder import exception
from cinder.volume.drivers.vitastor import cli


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


if __name__ == '__main__':
    unittest.main()
