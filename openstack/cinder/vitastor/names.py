"""Names of images and what they say.

A volume is the image volume-UUID, its snapshot is volume-UUID@snapshot-UUID.
Helpers of operations have names that tell what they belong to, so that a
repeated operation finds them, and the removal of the volume takes them along:

    SOURCE@VOLUME.clone_snap   what VOLUME was cloned from, if not a snapshot
    SOURCE@.clone_snap         the same for all clones of an image of Glance
    VOLUME@.migrate            the old layers of a volume that changes pools
    VOLUME.revert              a volume that is being reverted
"""

from __future__ import annotations

from typing import Optional

from .cli import Image, escape

CLONE = '.clone_snap'
MIGRATE = '.migrate'
REVERT = '.revert'
GIB = 1 << 30


def gib(size: int) -> int:
    """Bytes as GiB, rounded up."""
    return -(-size // GIB)


def volume_patterns(volume: str) -> list[str]:
    """Patterns of all images that go when a volume is removed."""
    name = escape(volume)
    return [name, f'{name}@*', f'{name}{REVERT}', f'*@{name}{CLONE}']


def is_snapshot(image: Image) -> bool:
    """Whether an image is a snapshot."""
    return '@' in image.name


def unsafe_reason(image: Image) -> Optional[str]:
    """Why Cinder must not manage an image that it does not know."""
    if image.name.endswith(CLONE):
        return 'used for clone snap'
    if image.name.endswith(MIGRATE) or image.name.endswith(REVERT):
        return 'used by an operation of Cinder that was interrupted'
    if image.deleted:
        return 'its removal was interrupted'
    return None
