"""Images that Cinder does not know yet: lists, references, names."""

from __future__ import annotations

from typing import Any, Optional

from . import errors
from . import names
from .cli import Cli, Image


def source_name(existing_ref: Any, volume: Optional[str] = None) -> str:
    """The name in a reference; of a volume's snapshot if a volume is given.

    A snapshot may be named alone or with its image.
    """
    make = errors.reference(existing_ref)
    if not isinstance(existing_ref, dict) or not existing_ref.get(
            'source-name'):
        raise make('it must be {"source-name": the name of the image}')
    name = existing_ref['source-name']
    if volume is None:
        return _checked(name, 0, make)
    if '@' not in name:
        name = f'{volume}@{name}'
    if name.partition('@')[0] != volume:
        raise make(f'{name} is not a snapshot of {volume}')
    return _checked(name, 1, make)


def _checked(name: str, at_signs: int, make: Any) -> str:
    if name.count('@') != at_signs or name.startswith('-') or '/' in name:
        raise make(f'{name} is no name of ' +
                   ('a snapshot' if at_signs else 'an image') +
                   ' that Cinder can manage')
    return name


def rename_with_snapshots(cli: Cli, name: str, new_name: str) -> None:
    """Rename an image; its own name changes last, so it can be repeated."""
    for image in cli.images():
        if image.name.startswith(name + '@'):
            cli.rename(image.name, new_name + image.name[len(name):])
    cli.rename(name, new_name)


def volume_entry(image: Image, cinder_id: Optional[str]) -> dict:
    """What the list of manageable volumes says about an image."""
    reason = 'already managed' if cinder_id else names.unsafe_reason(image)
    return {'reference': {'source-name': image.name},
            'size': names.gib(image.size),
            'safe_to_manage': reason is None,
            'reason_not_safe': reason,
            'cinder_id': cinder_id,
            'extra_info': {'pool': image.pool_name}}


def snapshot_entry(image: Image, cinder_id: Optional[str]) -> dict:
    """What the list of manageable snapshots says about a snapshot."""
    source = {'source-name': image.name.partition('@')[0]}
    return {**volume_entry(image, cinder_id), 'source_reference': source}
