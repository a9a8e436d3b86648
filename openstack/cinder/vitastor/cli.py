"""What the driver asks vitastor-cli to do.

Every change of the cluster is one command, and every command is one
transaction in etcd or can be repeated after it was killed.  This module knows
their options and exit codes, and nothing of Cinder: it raises CliError, which
carries the errno and the text of the program.

Concurrency: no state but the settings; any number of threads.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import time
from collections.abc import Callable, Iterable
from typing import Any, Optional

# Run executes a command and returns (exit code, stdout, stderr).  as_root
# asks for the rights to make block devices.  A missing program raises OSError.
Run = Callable[..., tuple[int, str, str]]

# AGAIN: somebody else changed the same thing; the command has to be repeated.
AGAIN_ATTEMPTS = 5
AGAIN_PAUSE_S = 0.5


class CliError(Exception):
    """A command failed; errno is its exit code, text what it said."""

    def __init__(self, code: int, text: str):
        super().__init__(text)
        self.errno = code
        self.text = text


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How to reach a cluster; empty values are left to its config file."""

    config_path: str = ''
    etcd_address: str = ''
    etcd_prefix: str = ''

    def arguments(self) -> list[str]:
        """The options that every program of Vitastor understands."""
        given = [('--config_path', self.config_path),
                 ('--etcd_address', self.etcd_address),
                 ('--etcd_prefix', self.etcd_prefix)]
        return [word for name, value in given if value
                for word in (name, value)]


@dataclasses.dataclass(frozen=True)
class Image:
    """An image, or a snapshot, whose name is IMAGE@SNAPSHOT."""

    name: str
    size: int       # bytes
    pool_id: int
    pool_name: str
    parent: str     # '' = none
    deleted: bool   # its removal was interrupted

    @classmethod
    def of(cls, entry: dict[str, Any]) -> 'Image':
        """Read an element of what `ls --json` prints."""
        return cls(entry['name'], int(entry['size']), int(entry['pool_id']),
                   entry.get('pool_name', ''), entry.get('parent_name', ''),
                   bool(entry.get('deleted')))


@dataclasses.dataclass(frozen=True)
class Pool:
    """Space of a pool, in bytes that images can use."""

    id: int
    name: str
    total: int
    free: int
    active: bool
    application: str  # '' = for images

    @classmethod
    def of(cls, entry: dict[str, Any]) -> 'Pool':
        """Read an element of what `df --json` prints."""
        # 0 when no OSD is up: nothing is known about the space then.
        ratio = float(entry.get('raw_to_usable') or 0)
        total = int(float(entry['total_raw']) / ratio) if ratio else 0
        return cls(int(entry['id']), entry['name'], total,
                   int(entry['max_available']) if ratio else 0,
                   entry.get('status') != 'inactive',
                   entry.get('used_for_app') or '')


def escape(name: str) -> str:
    """Quote a name so that it is a pattern that matches only itself."""
    for special in '\\*?':
        name = name.replace(special, '\\' + special)
    return name


class Cli:
    """vitastor-cli, for one cluster."""

    def __init__(self, run: Run, cluster: Cluster,
                 program: str = 'vitastor-cli'):
        self.cluster = cluster
        self._run = run
        self._program = program

    # ---- looking

    def pools(self) -> list[Pool]:
        """All pools of the cluster."""
        return [Pool.of(entry) for entry in self._json('df')]

    def images(self) -> list[Image]:
        """All images and snapshots of the cluster."""
        return [Image.of(entry) for entry in self._json('ls')]

    def find(self, name: str) -> Optional[Image]:
        """The image or snapshot of exactly this name."""
        found = self._json('ls', '--exact', name)
        return Image.of(found[0]) if found else None

    # ---- changing; all of it may be repeated

    def create(self, name: str, size: int = 0, pool: str = '',
               parent: str = '') -> None:
        """Make an image, or a clone of a snapshot.

        If it exists with that parent, and is not bigger, an earlier attempt
        made it: names of images contain the UUID of their volume.
        """
        options = ['--size', str(size)] if size else []
        options += ['--pool', pool] if pool else []
        options += ['--parent', parent] if parent else []
        try:
            self._json('create', *options, name)
        except CliError as e:
            if e.errno != errno.EEXIST:
                raise
            image = self.find(name)
            if (image is None or image.deleted or image.parent != parent
                    or size and image.size > size):
                raise
            if image.size < size:
                self.grow(name, size)

    def snapshot(self, name: str, snapshot: str, pool: str = '') -> None:
        """Make the snapshot NAME@SNAPSHOT, unless it exists.

        With a pool, what is written from now on goes there.
        """
        options = ['--pool', pool] if pool else []
        try:
            self._json('snap-create', *options, f'{name}@{snapshot}')
        except CliError as e:
            if e.errno != errno.EEXIST:
                raise

    def grow(self, name: str, size: int) -> None:
        """Make an image at least so big; it never gets smaller."""
        self._json('modify', name, '--inc_size', '1', '--resize', str(size))

    def rename(self, name: str, new_name: str) -> None:
        """Give an image another name."""
        self._json('modify', name, '--rename', new_name)

    def remove(self, name: str) -> None:
        """Remove an image or snapshot, if it exists; clones keep their data."""
        try:
            self._json('rm', '--progress', '0', name)
        except CliError as e:
            if e.errno != errno.ENOENT:
                raise

    def remove_matching(self, patterns: Iterable[str]) -> None:
        """Remove all images and snapshots that match one of the patterns."""
        self._json('rm', '--progress', '0', '--matching', *patterns)

    def flatten(self, name: str) -> None:
        """Copy into an image what it sees through its parents."""
        self._call('flatten', '--progress', '0', name)

    def write_from(self, file: str, name: str) -> None:
        """Copy a raw file into an existing image, from its start."""
        self._json('dd', f'if={file}', f'oimg={name}', 'conv=nocreat',
                   'status=none', '--progress', '0')

    def read_into(self, name: str, file: str) -> None:
        """Copy an image or snapshot into a raw file, sparsely."""
        self._json('dd', f'iimg={name}', f'of={file}', 'conv=trunc',
                   'status=none', '--progress', '0')

    # ---- running

    def _json(self, *words: str) -> Any:
        out = self._call('--json', *words)
        try:
            return json.loads(out or 'null')
        except ValueError:
            raise CliError(errno.EIO, f'{self._program} {" ".join(words)} '
                           f'printed something else than JSON: {out[:200]}')

    def _call(self, *words: str) -> str:
        """Run a command until nobody else changes the same thing."""
        for attempt in range(AGAIN_ATTEMPTS):
            if attempt:
                time.sleep(AGAIN_PAUSE_S)
            code, out, err = self._once(words)
            if code != errno.EAGAIN:
                break
        if code:
            raise CliError(code, _reason(out, err) or
                           f'{self._program} {" ".join(words)} ended with '
                           f'exit code {code}')
        return out

    def _once(self, words: tuple[str, ...]) -> tuple[int, str, str]:
        command = [self._program, *words, *self.cluster.arguments()]
        try:
            return self._run(*command)
        except OSError as e:
            # Not ENOENT, which says that an image does not exist.
            raise CliError(errno.ENOEXEC, f'cannot run {self._program}: '
                           f'{e.strerror}; install the package '
                           'vitastor-client on this host, or set '
                           'vitastor_cli')


def _reason(out: str, err: str) -> str:
    """What a failed command said: JSON on stdout, or text on stderr."""
    try:
        said = json.loads(out)
        if said.get('error_text'):
            return said['error_text']
    except (ValueError, AttributeError):
        pass
    return err.strip() or out.strip()
