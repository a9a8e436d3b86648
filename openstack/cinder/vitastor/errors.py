"""Errors of commands as exceptions of Cinder, which carry their text."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from cinder import exception

from .cli import CliError


def backend(text: str) -> Exception:
    """The exception that says what a backend said."""
    return exception.VolumeBackendAPIException(data=text)


def snapshot(text: str) -> Exception:
    """A snapshot is not what the operation needs."""
    return exception.SnapshotUnavailable(data=text)


def extend(text: str) -> Exception:
    """A volume cannot be extended."""
    return exception.ExtendVolumeError(reason=text)


def migration(text: str) -> Exception:
    """A volume cannot be moved to another pool."""
    return exception.VolumeMigrationFailed(reason=text)


def image_copy(text: str) -> Exception:
    """An image of Glance cannot be copied."""
    return exception.ImageCopyFailure(reason=text)


def reference(existing_ref: dict) -> Callable[[str], Exception]:
    """What is to be managed is not what the user thinks."""
    return lambda text: exception.ManageExistingInvalidReference(
        existing_ref=existing_ref, reason=text)


@contextlib.contextmanager
def told_as(make: Callable[[str], Exception]) -> Iterator[None]:
    """Turn errors of commands into exceptions of Cinder."""
    try:
        yield
    except CliError as e:
        raise make(e.text) from e
