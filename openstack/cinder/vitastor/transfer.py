"""Copies from and to Glance, and encrypted volumes.

Images are converted in a temporary folder (image_conversion_dir) and copied
with `vitastor-cli dd`, which needs neither a device nor any rights, and
leaves out zeroes.
"""

from __future__ import annotations

import binascii
import os
import stat
from typing import Any

from castellan import key_manager
from oslo_config import cfg

from cinder import exception
from cinder.image import image_utils
from cinder.volume import volume_utils

from . import errors
from .cli import Cli

GIB = 1 << 30
LUKS_ATTEMPTS = 5


class Transfer:
    """Copies for the volumes of one backend."""

    def __init__(self, cli: Cli, execute: Any, blocksize: str):
        self._cli = cli
        self._execute = execute
        self._blocksize = blocksize

    def from_glance(self, context: Any, volume: Any, image_service: Any,
                    image_id: str, encrypted: bool = False) -> None:
        """Fill a volume, which exists, with an image."""
        with image_utils.temporary_dir() as folder:
            raw = os.path.join(folder, 'image')
            image_utils.fetch_to_raw(context, image_service, image_id, raw,
                                     self._blocksize, size=volume.size,
                                     run_as_root=False)
            if encrypted:
                raw = self._encrypt(context, volume, folder, raw)
            self._check_size(volume, image_id, raw)
            with errors.told_as(errors.image_copy):
                self._cli.write_from(raw, volume.name)

    @staticmethod
    def _check_size(volume: Any, image_id: str, file: str) -> None:
        """Cinder has looked at the image; encryption needs more space."""
        size = os.path.getsize(file)
        if size > volume.size * GIB:
            raise exception.ImageTooBig(image_id=image_id, reason=(
                f'{size} bytes with the header of its encryption do not fit '
                f'into {volume.size} GiB'))

    def to_glance(self, context: Any, volume: Any, image_service: Any,
                  image_meta: dict) -> None:
        """Upload a volume as an image, in any format qemu-img knows."""
        with image_utils.temporary_dir() as folder:
            raw = os.path.join(folder, 'volume')
            with errors.told_as(errors.backend):
                self._cli.read_into(volume.name, raw)
            volume_utils.upload_volume(context, image_service, image_meta,
                                       raw, volume, run_as_root=False)

    # ---- encryption

    def format_encrypted(self, context: Any, volume: Any) -> None:
        """Write the LUKS header of an empty encrypted volume."""
        with image_utils.temporary_dir() as folder:
            header = os.path.join(folder, 'luks')
            self._luks(context, volume, folder, ['create', '-q', '-f', 'luks'],
                       [header, '0'])
            with errors.told_as(errors.backend):
                self._cli.write_from(header, volume.name)

    def _encrypt(self, context: Any, volume: Any, folder: str,
                 raw: str) -> str:
        encrypted = os.path.join(folder, 'luks')
        self._luks(context, volume, folder,
                   ['convert', '-f', 'raw', '-O', 'luks'], [raw, encrypted])
        os.unlink(raw)
        return encrypted

    def _luks(self, context: Any, volume: Any, folder: str,
              command: list[str], files: list[str]) -> None:
        """Run qemu-img with the key of a volume."""
        spec = volume_utils.check_encryption_provider(volume, context)
        cipher = image_utils.decode_cipher(spec['cipher'], spec['key_size'])
        secret = os.path.join(folder, 'secret')
        with open(secret, 'w', encoding='ascii') as f:
            os.fchmod(f.fileno(), stat.S_IRUSR | stat.S_IWUSR)
            f.write(self._passphrase(context, volume))
        try:
            self._execute(
                'qemu-img', *command,
                '--object', f'secret,id=luks_sec,format=raw,file={secret}',
                '-o', 'key-secret=luks_sec,'
                f'cipher-alg={cipher["cipher_alg"]},'
                f'cipher-mode={cipher["cipher_mode"]},'
                f'ivgen-alg={cipher["ivgen_alg"]}', *files,
                # It measures the CPU, which sometimes fails on busy hosts.
                attempts=LUKS_ATTEMPTS)
        finally:
            os.unlink(secret)

    @staticmethod
    def _passphrase(context: Any, volume: Any) -> str:
        keys = key_manager.API(cfg.CONF)
        key = keys.get(context, volume.encryption_key_id)
        return binascii.hexlify(key.get_encoded()).decode('ascii')
