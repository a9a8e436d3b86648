"""A Cinder service over a Vitastor cluster, and a client of its API.

The environment says where the cluster is:
    VITASTOR_CONF   configuration file of the cluster, with the pools
                    "copies" (1) and "parity" (2)
    PATH            has vitastor-cli and vitastor-nbd
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Optional

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = '0123456789abcdef0123456789abcdef'
GIB = 1 << 30

CONF = '''
[DEFAULT]
host = here
my_ip = 127.0.0.1
transport_url = fake://
auth_strategy = noauth
state_path = {dir}/state
api_paste_config = /usr/share/cinder-common/api-paste.ini
osapi_volume_listen = 127.0.0.1
osapi_volume_listen_port = {port}
osapi_volume_workers = 1
enabled_backends = fast,all
image_conversion_dir = {dir}/conversion
backup_driver = cinder.backup.drivers.posix.PosixBackupDriver
backup_posix_path = {dir}/backups
backup_file_size = 52428800
backup_use_same_host = true
cinder_internal_tenant_project_id = {project}
cinder_internal_tenant_user_id = admin
log_file = {dir}/cinder.log
use_stderr = false
# Only what Vitastor does counts here.
quota_volumes = -1
quota_snapshots = -1
quota_gigabytes = -1
# Only one of several services in a process reports that it lives.
service_down_time = 86400

[database]
connection = sqlite:///{dir}/cinder.sqlite

[oslo_concurrency]
lock_path = {dir}/lock

[coordination]
backend_url = file://{dir}/coordination

[key_manager]
backend = cinder.keymgr.conf_key_mgr.ConfKeyManager
fixed_key = 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff

[fast]
volume_driver = cinder.volume.drivers.vitastor.VitastorDriver
volume_backend_name = fast
vitastor_config_path = {vitastor}
vitastor_pool_id = 1
vitastor_device_dir = {dir}/links
vitastor_cli = {here}/vitastor-cli-that-kills

[all]
volume_driver = cinder.volume.drivers.vitastor.VitastorDriver
volume_backend_name = all
vitastor_config_path = {vitastor}
vitastor_device_dir = {dir}/links
image_upload_use_cinder_backend = true
image_volume_cache_enabled = true
'''


class Cinder:
    """One process with all of Cinder, which may be killed and started."""

    def __init__(self, folder: str):
        self.dir = folder
        self.vitastor = os.environ['VITASTOR_CONF']
        self.kill_file = os.path.join(folder, 'kill')
        for name in ('state', 'lock', 'links', 'conversion', 'backups',
                     'images', 'devices', 'coordination'):
            os.mkdir(os.path.join(folder, name))
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.port = s.getsockname()[1]
        self.conf = os.path.join(folder, 'cinder.conf')
        with open(self.conf, 'w', encoding='utf-8') as f:
            f.write(CONF.format(dir=folder, port=self.port, here=HERE,
                                vitastor=self.vitastor, project=PROJECT))
        subprocess.run(['cinder-manage', '--config-file', self.conf, 'db',
                        'sync'], check=True, capture_output=True)
        self.process: Optional[subprocess.Popen] = None

    def start(self) -> None:
        """Start it and wait until its volume services are up."""
        with open(os.path.join(self.dir, 'stderr'), 'ab') as stderr:
            self.process = subprocess.Popen(
                [sys.executable, os.path.join(HERE, 'service.py'), self.conf,
                 os.path.join(self.dir, 'images')], cwd=self.dir,
                stdout=subprocess.DEVNULL, stderr=stderr,
                env={**os.environ, 'VITASTOR_KILL': self.kill_file,
                     'VITASTOR_UBLK_STATE': os.path.join(self.dir, 'devices'),
                     'PATH': HERE + ':' + os.environ['PATH']})
        wait('volume services', self._up, 120)

    def _up(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            raise AssertionError('Cinder has ended: ' + self.log())
        try:
            pools = self.get('/scheduler-stats/get_pools?detail=true')
        except OSError:
            return False
        return len(pools['pools']) == 3

    def log(self) -> str:
        """The last errors in its logs."""
        found: list[str] = []
        for name in ('stderr', 'cinder.log'):
            path = os.path.join(self.dir, name)
            if os.path.exists(path):
                with open(path, encoding='utf-8') as f:
                    found += [line for line in f if ' INFO ' not in line
                              and 'warn' not in line.lower()]
        return '\n' + ''.join(found[-60:])

    def kill(self) -> None:
        """End it at once."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        if self.process:
            self.process.wait()
        self.process = None

    def wait_killed(self) -> None:
        """Wait until vitastor-cli-that-kills has done it; start again."""
        assert self.process is not None
        self.process.wait(60)
        self.start()

    # ---- API

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request; returns what the API answers, or None."""
        request = urllib.request.Request(
            f'http://127.0.0.1:{self.port}/v3/{PROJECT}{path}',
            method=method, data=json.dumps(body).encode() if body else None,
            headers={'X-Auth-Token': f'admin:{PROJECT}',
                     'Content-Type': 'application/json',
                     'OpenStack-API-Version': 'volume 3.70'})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as e:
            raise Refused(e.code, e.read().decode()) from None
        return json.loads(text) if text else None

    def get(self, path: str) -> Any:
        """GET."""
        return self.call('GET', path)

    def create(self, kind: str, **values: Any) -> str:
        """POST of a new thing, such as a volume; returns its ID."""
        answer = self.call('POST', f'/{kind}s', {kind: values})
        return answer[kind]['id']

    def volume_type(self, name: str, **specs: str) -> str:
        """A new volume type."""
        answer = self.call('POST', '/types', {'volume_type': {
            'name': name, 'extra_specs': specs}})
        return answer['volume_type']['id']

    def act(self, volume: str, name: str, **values: Any) -> Any:
        """An action of a volume."""
        return self.call('POST', f'/volumes/{volume}/action',
                         {name: values or {}})

    def status(self, path: str) -> str:
        """The status of a thing; "gone" if it does not exist."""
        try:
            answer = self.get(path)
        except Refused as e:
            if e.code != 404:
                raise
            return 'gone'
        return next(iter(answer.values()))['status']

    def wait(self, path: str, want: str = 'available') -> None:
        """Wait until a thing has a status."""
        def reached() -> bool:
            status = self.status(path)
            if status.startswith('error') and not want.startswith('error'):
                raise AssertionError(f"{path} is {status}: {self.log()}")
            return status == want

        wait(f'{path} is {want}', reached, 90)

    def volume(self, **values: Any) -> str:
        """A new volume that is available."""
        identity = self.create('volume', **{'size': 1, 'volume_type': 'fast',
                                            **values})
        self.wait(f'/volumes/{identity}')
        return identity

    def snapshot(self, volume: str, **values: Any) -> str:
        """A new snapshot that is available."""
        identity = self.create('snapshot', volume_id=volume, **values)
        self.wait(f'/snapshots/{identity}')
        return identity

    def delete(self, path: str) -> None:
        """DELETE, and wait until it has happened."""
        self.call('DELETE', path)
        self.wait(path.partition('?')[0], 'gone')

    # ---- the cluster, as vitastor-cli sees it

    def images(self) -> dict[str, dict]:
        """All images and snapshots."""
        return {i['name']: i for i in json.loads(self.cli('--json', 'ls'))}

    def cli(self, *words: str) -> str:
        """Run vitastor-cli."""
        return subprocess.run(
            ['vitastor-cli', *words, '--config_path', self.vitastor],
            check=True, capture_output=True, text=True).stdout

    def write(self, image: str, data: bytes) -> None:
        """Write at the start of an image, with QEMU's alignment."""
        path = os.path.join(self.dir, 'data')
        with open(path, 'wb') as f:
            f.write(data.ljust(4096, b'\0'))
        self.cli('dd', f'if={path}', f'oimg={image}', 'bs=4k',
                 'conv=nocreat')

    def read(self, image: str, count: int = 4096) -> bytes:
        """Read the start of an image, without the zeroes at its end."""
        path = os.path.join(self.dir, 'data')
        self.cli('dd', f'iimg={image}', f'of={path}', 'bs=4k',
                 f'count={count // 4096}', 'conv=trunc')
        with open(path, 'rb') as f:
            return f.read().rstrip(b'\0')


class Refused(Exception):
    """The API has refused a request."""

    def __init__(self, code: int, text: str):
        super().__init__(f'{code}: {text}')
        self.code = code


def wait(what: str, reached: Any, seconds: float) -> None:
    """Poll until something is true."""
    end = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > end:
            raise AssertionError(f'not within {seconds} s: {what}')
        time.sleep(0.2)
