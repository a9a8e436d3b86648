"""Makes the driver importable, with Cinder or without it.

If Cinder is not installed, the few things of Cinder and oslo that the driver
uses are stood in for here; what they do is what their documentation says.  The
same tests run with the real ones in `make test-integrations`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
import types
from typing import Any

SOURCES = os.path.join(os.path.dirname(os.path.dirname(
    os.path.abspath(__file__))), 'cinder')
HAVE_CINDER = (importlib.util.find_spec('cinder') is not None
               and not os.environ.get('VITASTOR_TEST_WITHOUT_CINDER'))


def install() -> None:
    """Put the driver where cinder.conf says it is."""
    if not HAVE_CINDER:
        _stand_in()
    import cinder.volume.drivers as drivers
    if SOURCES not in drivers.__path__:
        drivers.__path__.insert(0, SOURCES)
    if HAVE_CINDER:
        from cinder import objects
        objects.register_all()


def _module(name: str, **content: Any) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__path__ = []
    module.__dict__.update(content)
    sys.modules[name] = module
    parent, _, last = name.rpartition('.')
    if parent:
        setattr(sys.modules[parent], last, module)
    return module


def _stand_in() -> None:
    _oslo()
    _module('castellan', key_manager=_module_object())
    _module('cinder', interface=_module_object(
        volumedriver=lambda cls: cls))
    _module('cinder.exception', **_exceptions())
    _module('cinder.context', get_admin_context=lambda: None)
    _module('cinder.objects', Volume=_NoObjects, Snapshot=_NoObjects)
    _module('cinder.utils', synchronized=lambda name, external=False:
            lambda f: f)
    _module('cinder.image')
    _module('cinder.image.image_utils', temporary_dir=_temporary_dir)
    _module('cinder.volume')
    _module('cinder.volume.configuration', SHARED_CONF_GROUP='backend')
    _module('cinder.volume.driver', CloneableImageVD=object,
            **{name: type(name, (), {}) for name in (
                'MigrateVD', 'ManageableVD', 'ManageableSnapshotsVD')},
            BaseVD=_BaseVD)
    _module('cinder.volume.volume_utils', **_volume_utils())
    _module('cinder.volume.drivers')
    sys.modules['cinder.volume.driver'].CloneableImageVD = type(
        'CloneableImageVD', (), {})


def _module_object(**content: Any) -> Any:
    return types.SimpleNamespace(**content)


def _oslo() -> None:
    def option(name: str, default: Any = None, **_: Any) -> Any:
        return _module_object(name=name, default=default)

    conf = _module_object(host='here', my_ip='10.0.0.1',
                          volume_name_template='volume-%s',
                          snapshot_name_template='snapshot-%s',
                          register_opts=lambda *a, **k: None)
    _module('oslo_config', cfg=_module_object(
        CONF=conf, StrOpt=option, ListOpt=option))
    log = _module_object(error=lambda *a: None)
    _module('oslo_log', log=_module_object(getLogger=lambda name: log))
    _module('oslo_concurrency', processutils=_module_object(
        ProcessExecutionError=_ProcessExecutionError))
    _module('oslo_utils', importutils=_module_object(
        import_object=lambda f, **kwargs: f(**kwargs)))


class _ProcessExecutionError(Exception):
    def __init__(self, stdout: str = '', stderr: str = '',
                 exit_code: Any = '-'):
        super().__init__(stderr)
        self.stdout, self.stderr, self.exit_code = stdout, stderr, exit_code


def _exceptions() -> dict[str, type]:
    class CinderException(Exception):
        def __init__(self, message: Any = None, **kwargs: Any):
            super().__init__(message or ' '.join(map(str, kwargs.values())))

    made: dict[str, type] = {'CinderException': CinderException}
    for name in ('VolumeBackendAPIException', 'InvalidVolume',
                 'VolumeMigrationFailed', 'ImageCopyFailure', 'ImageTooBig',
                 'ExtendVolumeError', 'ManageExistingInvalidReference',
                 'ManageExistingAlreadyManaged', 'VolumeNotFound',
                 'InvalidConnectorException'):
        made[name] = type(name, (CinderException,), {})
    made['SnapshotUnavailable'] = type(
        'SnapshotUnavailable', (made['VolumeBackendAPIException'],), {})
    return made


class _NoObjects:
    """Objects of an empty database."""

    @staticmethod
    def get_by_id(context: Any, identity: str) -> Any:
        raise sys.modules['cinder.exception'].VolumeNotFound(identity)

    @staticmethod
    def exists(context: Any, identity: str) -> bool:
        return False


class _BaseVD:
    def __init__(self, execute: Any = None, **kwargs: Any):
        self._execute = execute
        self.host = kwargs.get('host')
        self.configuration = kwargs.get('configuration')
        self.target_mapping: dict[str, Any] = {}

    def get_filter_function(self) -> None:
        return None

    def get_goodness_function(self) -> None:
        return None


@contextlib.contextmanager
def _temporary_dir() -> Any:
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        yield folder


def _volume_utils() -> dict[str, Any]:
    def extract_host(host: Any, level: str = 'backend') -> Any:
        if host is None:
            return None
        backend, _, pool = host.partition('#')
        return {'backend': backend, 'host': backend.partition('@')[0],
                'pool': pool or None}[level]

    def paginate(entries: list, marker: Any, limit: int, offset: int,
                 keys: Any, directions: Any) -> list:
        entries = sorted(entries, key=lambda e: str(e['reference']))
        return entries[offset or 0:(offset or 0) + limit]

    def uuid_in(prefix: str) -> Any:
        return lambda name: (m := re.match(prefix + '(.+)', name)) and m[1]

    return {'extract_host': extract_host, 'paginate_entries_list': paginate,
            'extract_id_from_volume_name': uuid_in('volume-'),
            'extract_id_from_snapshot_name': uuid_in('snapshot-'),
            'check_already_managed_volume': lambda identity: False,
            'get_max_over_subscription_ratio':
                lambda value, supports_auto=False: float(value)}
