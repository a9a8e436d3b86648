"""Images as block devices of this host.

A device is made by one of our front ends (vitastor-vduse, vitastor-ublk,
vitastor-nbd), which have the same commands.  Servers are told the path of a
link with the name of the volume, never the device itself: device numbers are
used again after a reboot, and a server that was told /dev/ublkb0 once would
get the disk of somebody else.

Guarantee: a link, if it exists, leads to the device of its image; a volume
has at most one device on this host, however often attach is called.

Concurrency: attach and detach of one image must not run at the same time.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from typing import Optional

from .cli import CliError, Cluster, Run

# Programs, the best first.
PROGRAMS = ('vitastor-vduse', 'vitastor-ublk', 'vitastor-nbd')


class Devices:
    """Block devices of one host."""

    def __init__(self, run: Run, cluster: Cluster, programs: list[str],
                 folder: str):
        self._run = run
        self._cluster = cluster
        self._programs = programs
        self._folder = folder

    def attach(self, image: str, readonly: bool = False) -> str:
        """Make a device of an image, if there is none; returns its link."""
        program, device = self._mapped(image)
        if not device:
            program, device = self._map(image, readonly)
        try:
            return self._link(image, device)
        except OSError as e:
            self._unmap(program, device)
            raise CliError(e.errno or errno.EIO, f'cannot make a link in '
                           f'{self._folder}: {e.strerror}; the folder must '
                           'exist and belong to the user of cinder-volume')

    def detach(self, image: str) -> None:
        """Remove the device of an image, if there is one."""
        program, device = self._mapped(image)
        self._unlink(self.path(image))
        if device:
            self._unmap(program, device)

    def path(self, image: str) -> str:
        """Where the device of an image is linked."""
        return os.path.join(self._folder, image)

    # ---- links

    def _link(self, image: str, device: str) -> str:
        for other, target in self._links():
            if target == device and other != self.path(image):
                self._unlink(other)  # its device has died without us
        path, new = self.path(image), self.path('.' + image)
        self._unlink(new)
        os.symlink(device, new)
        os.replace(new, path)
        return path

    def _links(self) -> Iterator[tuple[str, str]]:
        for name in os.listdir(self._folder):
            path = os.path.join(self._folder, name)
            if os.path.islink(path):
                yield path, os.readlink(path)

    @staticmethod
    def _unlink(path: str) -> None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    # ---- programs

    def _mapped(self, image: str) -> tuple[str, str]:
        """The program and device of an image, or empty strings."""
        silent = []
        for program in self._programs:
            devices = self._list(program)
            if devices is None:
                silent.append(program)
                continue
            for device, entry in devices.items():
                if entry.get('image') == image:
                    return program, device
        if silent and os.path.exists(self.path(image)):
            # Two devices of one image would have two caches.
            raise CliError(errno.EBUSY, f'{image} has a device already, but '
                           f'"{silent[0]} ls" does not work on this host')
        return '', ''

    def _list(self, program: str) -> Optional[dict[str, dict]]:
        """What a program has mapped; None if it does not answer."""
        try:
            code, out, _ = self._run(program, 'ls', '--json', as_root=True)
            return None if code else json.loads(out or '{}') or {}
        except (OSError, ValueError):
            return None

    def _map(self, image: str, readonly: bool) -> tuple[str, str]:
        """Make a device with the first program that can."""
        reasons = []
        for program in self._programs:
            device, reason = self._map_with(program, image, readonly)
            if device:
                return program, device
            reasons.append(f'{program}: {reason}')
        raise CliError(errno.ENODEV, f'no block device can be made of {image} '
                       f'on this host ({"; ".join(reasons)})')

    def _map_with(self, program: str, image: str,
                  readonly: bool) -> tuple[Optional[str], str]:
        options = ['--readonly'] if readonly else []
        try:
            code, out, err = self._run(
                program, 'map', '--image', image, *options,
                *self._cluster.arguments(), as_root=True)
        except OSError as e:
            return None, e.strerror or str(e)
        device = (out.split() or [''])[-1]
        if code or not device.startswith('/'):
            return None, (err or out).strip() or f'exit code {code}'
        return device, ''

    def _unmap(self, program: str, device: str) -> None:
        code, out, err = self._run(program, 'unmap', device, as_root=True)
        if code and device in (self._list(program) or [device]):
            raise CliError(errno.EBUSY, f'{program} unmap {device}: '
                           f'{(err or out).strip()}')
