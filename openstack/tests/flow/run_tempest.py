"""Tempest's volume suite against Cinder with our driver and a real Keystone.

    VITASTOR_CONF=... PATH=... python3 run_tempest.py [regex of tests]

Keystone runs on sqlite behind wsgiref.  Glance and Nova are not there: their
tests are skipped by Tempest, except those of EXCLUDED.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import urllib.request
from typing import Any, Optional

import rig

SUITE = r'^tempest\.api\.volume'
# It asks Glance although [service_available] says that there is none.
EXCLUDED = r'VolumesExtendTest\.test_volume_extend\['
PASSWORD = 'secret'

KEYSTONE = '''
[database]
connection = sqlite:///{dir}/keystone.sqlite
[token]
provider = fernet
[fernet_tokens]
key_repository = {dir}/fernet
[credential]
key_repository = {dir}/credentials
'''

CINDER = '''
[keystone_authtoken]
auth_type = password
auth_url = {url}
www_authenticate_uri = {url}
username = cinder
password = secret
project_name = service
user_domain_name = Default
project_domain_name = Default
service_token_roles_required = true
'''

TEMPEST = '''
[DEFAULT]
log_file = {dir}/tempest.log
[oslo_concurrency]
lock_path = {dir}/lock
[auth]
use_dynamic_credentials = true
admin_username = admin
admin_password = secret
admin_project_name = admin
admin_domain_name = Default
[identity]
uri_v3 = {url}
auth_version = v3
region = RegionOne
[service_available]
cinder = true
nova = false
glance = false
neutron = false
swift = false
[volume]
catalog_type = volumev3
storage_protocol = vitastor
vendor_name = Vitastor
backend_names = fast,all
manage_volume_ref = source-name,volume-%s
manage_snapshot_ref = source-name,snapshot-%s
build_timeout = 120
min_microversion = 3.0
max_microversion = 3.70
[volume-feature-enabled]
backup = true
multi_backend = true
manage_volume = true
manage_snapshot = true
volume_revert = true
'''


class CinderWithKeystone(rig.Cinder):
    """The service of rig, which asks a Keystone about users."""

    def __init__(self, folder: str):
        super().__init__(folder)
        with rig.socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        self.url = f'http://127.0.0.1:{port}/v3'
        self._token = ''
        self._keystone = self._start_keystone(port)
        self._edit(('auth_strategy = noauth',
                    'auth_strategy = keystone\ndefault_volume_type = fast'))
        with open(self.conf, 'a', encoding='utf-8') as f:
            f.write(CINDER.format(url=self.url))
        try:
            self._fill()
        except BaseException:
            self.stop()
            raise

    def _edit(self, *changes: tuple[str, str]) -> None:
        with open(self.conf, encoding='utf-8') as f:
            text = f.read()
        for old, new in changes:
            text = text.replace(old, new)
        with open(self.conf, 'w', encoding='utf-8') as f:
            f.write(text)

    def _start_keystone(self, port: int) -> subprocess.Popen:
        conf = os.path.join(self.dir, 'keystone.conf')
        with open(conf, 'w', encoding='utf-8') as f:
            f.write(KEYSTONE.format(dir=self.dir))
        for name in ('fernet', 'credentials'):
            os.mkdir(os.path.join(self.dir, name), 0o700)
        manage = ['keystone-manage', '--config-file', conf]
        who = ['--keystone-user', 'root', '--keystone-group', 'root']
        for command in (['db_sync'], ['fernet_setup', *who],
                        ['credential_setup', *who],
                        ['bootstrap', '--bootstrap-password', PASSWORD,
                         '--bootstrap-region-id', 'RegionOne',
                         '--bootstrap-public-url', self.url,
                         '--bootstrap-internal-url', self.url,
                         '--bootstrap-admin-url', self.url]):
            subprocess.run([*manage, *command], check=True,
                           capture_output=True)
            self._let_readers_write(os.path.join(self.dir,
                                                 'keystone.sqlite'))
        with open(os.path.join(self.dir, 'keystone.log'), 'wb') as log:
            process = subprocess.Popen(
                ['keystone-wsgi-public', '--host', '127.0.0.1', '--port',
                 str(port)], stdout=log, stderr=log,
                env={**os.environ, 'OS_KEYSTONE_CONFIG_FILES': conf})
        rig.wait('Keystone', self._login, 60)
        return process

    @staticmethod
    def _let_readers_write(database: str) -> None:
        """Keystone writes on one connection while it reads on another."""
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute('PRAGMA journal_mode=WAL')

    def _login(self) -> bool:
        scope = {'name': 'admin', 'domain': {'id': 'default'}}
        body = {'auth': {
            'identity': {'methods': ['password'], 'password': {'user': {
                **scope, 'password': PASSWORD}}},
            'scope': {'project': scope}}}
        request = urllib.request.Request(
            self.url + '/auth/tokens', data=json.dumps(body).encode(),
            headers={'Content-Type': 'application/json'})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                self._token = answer.headers['X-Subject-Token']
                token = json.load(answer)['token']
        except OSError:
            return False
        rig.PROJECT = token['project']['id']
        return True

    def _ask(self, method: str, path: str,
             body: Optional[dict] = None) -> Any:
        request = urllib.request.Request(
            self.url + path, method=method,
            data=json.dumps(body).encode() if body else None,
            headers={'Content-Type': 'application/json',
                     'X-Auth-Token': self._token})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except OSError as e:
            with open(os.path.join(self.dir, 'keystone.log'),
                      encoding='utf-8') as f:
                raise AssertionError(f'{method} {path}: {e}\n' +
                                     ''.join(f.readlines()[-40:])) from e
        return json.loads(text) if text else None

    def _fill(self) -> None:
        """Cinder's user and its endpoint."""
        project = self._ask('POST', '/projects', {'project': {
            'name': 'service', 'domain_id': 'default'}})['project']['id']
        user = self._ask('POST', '/users', {'user': {
            'name': 'cinder', 'password': PASSWORD,
            'domain_id': 'default'}})['user']['id']
        roles = {r['name']: r['id']
                 for r in self._ask('GET', '/roles')['roles']}
        self._ask('PUT', f'/projects/{project}/users/{user}/roles/'
                         f'{roles["admin"]}')
        service = self._ask('POST', '/services', {'service': {
            'type': 'volumev3', 'name': 'cinderv3'}})['service']['id']
        for interface in ('public', 'internal', 'admin'):
            self._ask('POST', '/endpoints', {'endpoint': {
                'service_id': service, 'interface': interface,
                'region_id': 'RegionOne', 'url':
                f'http://127.0.0.1:{self.port}/v3/$(project_id)s'}})

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request of the administrator."""
        request = urllib.request.Request(
            f'http://127.0.0.1:{self.port}/v3/{rig.PROJECT}{path}',
            method=method, data=json.dumps(body).encode() if body else None,
            headers={'X-Auth-Token': self._token,
                     'Content-Type': 'application/json',
                     'OpenStack-API-Version': 'volume 3.70'})
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def stop(self) -> None:
        """End both."""
        self.kill()
        self._keystone.kill()
        self._keystone.wait()


def main(suite: str = SUITE) -> int:
    """Returns the exit code of Tempest."""
    with tempfile.TemporaryDirectory(prefix='vitastor-tempest-') as folder:
        cinder = CinderWithKeystone(folder)
        try:
            cinder.start()
            for name in ('fast', 'all'):
                cinder.volume_type(name, volume_backend_name=name)
            return run(cinder, suite)
        finally:
            cinder.stop()


def run(cinder: CinderWithKeystone, suite: str) -> int:
    """Run Tempest in a workspace of its own."""
    workspace = os.path.join(cinder.dir, 'tempest')
    home = {**os.environ, 'HOME': cinder.dir}
    subprocess.run(['tempest', 'init', workspace], check=True, env=home,
                   cwd=cinder.dir, capture_output=True)
    with open(os.path.join(workspace, 'etc', 'tempest.conf'), 'w',
              encoding='utf-8') as f:
        f.write(TEMPEST.format(dir=cinder.dir, url=cinder.url))
    code = subprocess.run(['tempest', 'run', '--serial', '--regex', suite,
                           '--exclude-regex', EXCLUDED],
                          cwd=workspace, env=home).returncode
    if code:
        print(cinder.log())
    left = cinder.images()
    print('images that are left:', sorted(left) or 'none')
    return code or bool(left)


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
