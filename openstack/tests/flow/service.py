"""Cinder in one process: API, scheduler, backup, and a volume service for
each backend, on sqlite, without RabbitMQ and Keystone.

    service.py CINDER_CONF IMAGE_FOLDER

Two things stand in: images of Glance are files of that folder, ID and
ID.json; and Nova knows no server.  SIGKILL is an accepted way to end it.
"""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()

import datetime  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import uuid  # noqa: E402
from typing import Any  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import package  # noqa: E402

package.install()

from oslo_config import cfg  # noqa: E402
from oslo_log import log  # noqa: E402
from oslo_privsep import priv_context  # noqa: E402
from oslo_service import service as oslo_service  # noqa: E402
import os_brick  # noqa: E402

from cinder import exception  # noqa: E402
from cinder import rpc  # noqa: E402
from cinder import service  # noqa: E402
from cinder import version  # noqa: E402
from cinder.common import config  # noqa: E402,F401
from cinder.cmd import backup  # noqa: E402,F401 (options)
from cinder.cmd import volume  # noqa: E402,F401 (options)
from cinder.compute import nova  # noqa: E402
from cinder.image import glance  # noqa: E402


UPDATED = datetime.datetime(2022, 1, 1, tzinfo=datetime.timezone.utc)


class Images:
    """Images as files, with the interface of cinder.image.glance."""

    def __init__(self, folder: str):
        self._folder = folder
        self.temp_images: dict = {}  # image_utils keeps downloads here

    def _path(self, image_id: str) -> str:
        return os.path.join(self._folder, image_id)

    def show(self, context: Any, image_id: str) -> dict:
        """What is known of an image."""
        try:
            with open(self._path(image_id) + '.json', encoding='utf-8') as f:
                return {**json.load(f), 'updated_at': UPDATED}
        except FileNotFoundError:
            raise exception.ImageNotFound(image_id=image_id)

    def get_location(self, context: Any, image_id: str) -> tuple:
        """The volume of an image, if that is where its data is."""
        locations = self.show(context, image_id).get('locations') or []
        return (locations[0]['url'] if locations else None), locations

    def add_location(self, context: Any, image_id: str, url: str,
                     metadata: dict) -> dict:
        """The data of an image is a volume."""
        return self.update(context, image_id, {
            'locations': [{'url': url, 'metadata': metadata}],
            'status': 'active', 'size': 1 << 30})

    def download(self, context: Any, image_id: str, data: Any = None) -> None:
        """Copy the data of an image."""
        with open(self._path(image_id), 'rb') as f:
            shutil.copyfileobj(f, data)

    def create(self, context: Any, image_meta: dict,
               data: Any = None) -> dict:
        """A new image."""
        image_id = str(uuid.uuid4())
        return self.update(context, image_id, {
            **image_meta, 'id': image_id, 'status': 'queued'})

    def update(self, context: Any, image_id: str, image_meta: dict,
               data: Any = None, **kwargs: Any) -> dict:
        """Change an image, or give it data."""
        try:
            meta = self.show(context, image_id)
        except exception.ImageNotFound:
            meta = {'properties': {}, 'min_disk': 0, 'min_ram': 0}
        meta.update(image_meta)
        if data is not None:
            with open(self._path(image_id), 'wb') as f:
                shutil.copyfileobj(data, f)
            meta.update(status='active',
                        size=os.path.getsize(self._path(image_id)))
        with open(self._path(image_id) + '.json', 'w',
                  encoding='utf-8') as f:
            json.dump(meta, f, default=str)
        return meta

    def delete(self, context: Any, image_id: str) -> bool:
        """Remove an image."""
        os.unlink(self._path(image_id) + '.json')
        return True


def no_server(*args: Any) -> Any:
    """What Nova says of a server that it has deleted."""
    raise nova.API.NotFound(404)


def main() -> None:
    """Run until killed."""
    conf, images = sys.argv[1:]
    cfg.CONF(['--config-file', conf], project='cinder',
             version=version.version_string())
    log.setup(cfg.CONF, 'cinder')
    rpc.init(cfg.CONF)
    glance.get_default_image_service = lambda: Images(images)
    nova.API.get_server_volume = staticmethod(no_server)
    priv_context.init(root_helper=['env'])  # we are root
    os_brick.setup(cfg.CONF)
    launcher = oslo_service.ServiceLauncher(cfg.CONF)
    for one in services():
        launcher.launch_service(one)
    print('ready', flush=True)
    launcher.wait()


def services() -> Any:
    """All services of Cinder.

    What a process was doing when it was killed is known of the service that
    was created last: that of the first backend.
    """
    yield service.Service.create(binary='cinder-scheduler')
    yield service.Service.create(binary='cinder-backup', coordination=True)
    for backend in reversed(cfg.CONF.enabled_backends):
        yield service.Service.create(
            host=f'{cfg.CONF.host}@{backend}', service_name=backend,
            binary='cinder-volume', coordination=True)
    yield service.WSGIService('osapi_volume')


if __name__ == '__main__':
    main()
