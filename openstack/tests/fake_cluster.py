"""A cluster that lives in a dictionary, behind the programs the driver runs.

It knows what docs/usage/vitastor-cli.md says of each command, and can die
before or after any of them, as a killed cinder-volume does.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
from typing import Any, Optional

GIB = 1 << 30


class Killed(BaseException):
    """The process was killed here."""


class Failed(Exception):
    """A command fails with an exit code."""

    def __init__(self, code: int, text: str):
        super().__init__(text)
        self.code = code


@dataclasses.dataclass
class FakeImage:
    """An image; data is a list of what was written, the oldest first."""

    id: int
    size: int
    pool: int
    parent: Optional[int] = None
    readonly: bool = False
    data: list = dataclasses.field(default_factory=list)


class FakeCluster:
    """Pools, images, and the devices of one host."""

    def __init__(self) -> None:
        self.pools = {1: 'ssd', 2: 'hdd'}
        self.images: dict[str, FakeImage] = {}
        self.devices: dict[str, dict[str, str]] = {'vitastor-ublk': {}}
        self.commands: list[tuple[str, ...]] = []
        self.kill_at = -1       # index of a command
        self.kill_after = False  # it has done its work
        self.fail: dict[str, Failed] = {}  # by name of the command
        self.busy = 0           # how often to say EAGAIN
        self._next = 1

    # ---- running

    def execute(self, *command: str, **kwargs: Any) -> tuple[str, str]:
        """What processutils.execute does."""
        from oslo_concurrency import processutils
        number = len(self.commands)
        self.commands.append(command)
        if number == self.kill_at and not self.kill_after:
            raise Killed
        try:
            out = self._execute(command)
        except Failed as e:
            raise processutils.ProcessExecutionError(
                stdout=json.dumps({'error_code': e.code,
                                   'error_text': str(e)}),
                stderr='', exit_code=e.code)
        if number == self.kill_at:
            raise Killed
        return json.dumps(out) if not isinstance(out, str) else out, ''

    def _execute(self, command: tuple[str, ...]) -> Any:
        if command[0] != 'vitastor-cli':
            return self._device_program(command)
        words, options = self._parse(command[1:])
        name = words.pop(0)
        if name in self.fail:
            raise self.fail[name]
        if self.busy and name not in ('ls', 'df'):
            self.busy -= 1
            raise Failed(11, 'changed by somebody else')
        do = getattr(self, '_' + name.replace('-', '_'))
        return do(words, options)

    @staticmethod
    def _parse(command: tuple[str, ...]) -> tuple[list[str], dict]:
        words, options = [], {}
        rest = iter(command)
        for word in rest:
            if word in ('--json', '--exact', '--matching'):
                options[word] = '1'
            elif word.startswith('--'):
                options[word] = next(rest)
            else:
                words.append(word)
        return words, options

    def _device_program(self, command: tuple[str, ...]) -> Any:
        program, verb, *rest = command
        if program not in self.devices:
            raise FileNotFoundError(2, 'No such file or directory', program)
        mapped = self.devices[program]
        if verb == 'ls':
            return {d: {'image': i} for d, i in mapped.items()}
        if verb == 'map':
            image = rest[rest.index('--image') + 1]
            self._must(image)
            number = next(n for n in range(99)
                          if f'/dev/ublkb{n}' not in mapped)
            mapped[f'/dev/ublkb{number}'] = image
            return f'/dev/ublkb{number}\n'
        mapped.pop(rest[0])
        return ''

    # ---- commands

    def _df(self, words: list, options: dict) -> Any:
        return [{'id': n, 'name': name, 'total_raw': 200 * GIB,
                 'used_raw': 50 * GIB, 'raw_to_usable': 2,
                 'max_available': 70 * GIB, 'status': 'active'}
                for n, name in self.pools.items()]

    def _ls(self, words: list, options: dict) -> Any:
        names = {i.id: name for name, i in self.images.items()}
        return [{'name': name, 'size': i.size, 'pool_id': i.pool,
                 'pool_name': self.pools[i.pool], 'deleted': False,
                 **({'parent_name': names[i.parent]} if i.parent else {})}
                for name, i in sorted(self.images.items())
                if not words or name in words]

    def _create(self, words: list, options: dict) -> Any:
        name, = words
        if name in self.images:
            raise Failed(17, f'Image {name} already exists')
        parent = options.get('--parent')
        if parent and parent not in self.images:
            raise Failed(2, f'Parent image {parent} not found')
        origin = self.images[parent] if parent else None
        pool = self._pool(options, origin.pool if origin else None)
        size = int(options.get('--size', origin.size if origin else 0))
        if size % 4096 or not size:
            raise Failed(22, 'Size should be a multiple of 4096')
        self._add(name, size, pool, origin.id if origin else None)
        return {'name': name}

    def _snap_create(self, words: list, options: dict) -> Any:
        name, _, snapshot = words[0].partition('@')
        if words[0] in self.images:
            raise Failed(17, f'Snapshot {words[0]} already exists')
        old = self._must(name)
        del self.images[name]
        old.readonly = True
        self.images[words[0]] = old
        self._add(name, old.size, self._pool(options, old.pool), old.id)
        return {'name': words[0]}

    def _modify(self, words: list, options: dict) -> Any:
        image = self._must(words[0])
        if '--resize' in options:
            image.size = max(image.size, int(options['--resize']))
        if '--rename' in options:
            if options['--rename'] in self.images:
                raise Failed(17, 'name is taken')
            self.images[options['--rename']] = self.images.pop(words[0])
        return {}

    def _rm(self, words: list, options: dict) -> Any:
        if '--matching' not in options:
            self._must(words[0])
            self._remove(words[0])
            return {}
        for pattern in words:
            glob = re.sub(r'\\(.)', r'[\1]', pattern)
            for name in [n for n in self.images
                         if fnmatch.fnmatchcase(n, glob)]:
                self._remove(name)
        return {}

    def _flatten(self, words: list, options: dict) -> Any:
        image = self._must(words[0])
        image.data = self.content(words[0])
        image.parent = None
        return 'flattened'

    def _dd(self, words: list, options: dict) -> Any:
        given = dict(w.partition('=')[::2] for w in words)
        if 'oimg' in given:
            with open(given['if'], encoding='utf-8') as f:
                self._must(given['oimg']).data.append(f.read())
        else:
            with open(given['of'], 'w', encoding='utf-8') as f:
                f.write('\n'.join(self.content(given['iimg'])))
        return {}

    # ---- state

    def content(self, name: str) -> list:
        """What a reader of an image sees."""
        image: Optional[FakeImage] = self._must(name)
        layers: list = []
        while image:
            layers = image.data + layers
            image = self._by_id(image.parent)
        return layers

    def write(self, name: str, what: str) -> None:
        """A server writes to its disk."""
        assert not self._must(name).readonly
        self.images[name].data.append(what)

    def _remove(self, name: str) -> None:
        gone = self.images.pop(name)
        for image in self.images.values():
            if image.parent == gone.id:
                image.data = gone.data + image.data
                image.parent = gone.parent

    def _add(self, name: str, size: int, pool: int,
             parent: Optional[int]) -> None:
        self.images[name] = FakeImage(self._next, size, pool, parent)
        self._next += 1

    def _must(self, name: str) -> FakeImage:
        if name not in self.images:
            raise Failed(2, f'Image {name} does not exist')
        return self.images[name]

    def _by_id(self, identity: Optional[int]) -> Optional[FakeImage]:
        return next((i for i in self.images.values() if i.id == identity),
                    None)

    def _pool(self, options: dict, default: Optional[int]) -> int:
        want = options.get('--pool')
        for number, name in self.pools.items():
            if want in (str(number), name):
                return number
        if want:
            raise Failed(2, f'Pool {want} does not exist')
        if default is None:
            raise Failed(22, 'Pool name or ID is missing')
        return default
