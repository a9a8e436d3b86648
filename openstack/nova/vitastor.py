"""Vitastor volumes for libvirt guests of Nova.

Installed as nova/virt/libvirt/volume/vitastor.py.  What Cinder says decides:

    data['device']   connect_volume makes a block device of this host with one
                     of our front ends; libvirt needs no patch
    otherwise        a network disk, protocol 'vitastor'; libvirt is patched

Guarantee: an image has at most one device on this host, and it is gone after
disconnect_volume; both may be repeated.
"""

import json

from oslo_concurrency import processutils
from oslo_log import log as logging

from nova import exception
import nova.privsep
from nova import utils
from nova.virt.libvirt import config as vconfig
from nova.virt.libvirt.volume import volume as libvirt_volume

LOG = logging.getLogger(__name__)

# Programs that make block devices, the best first.
PROGRAMS = ('vitastor-vduse', 'vitastor-ublk', 'vitastor-nbd')
DEFAULT_PORT = '2379'


@nova.privsep.sys_admin_pctxt.entrypoint
def run(*command):
    """Run a program of Vitastor with the right to make devices."""
    assert command[0] in PROGRAMS
    try:
        return processutils.execute(*command)[0]
    except FileNotFoundError:
        raise processutils.ProcessExecutionError(
            stderr='%s is not installed' % command[0])


class NetworkDisk(vconfig.LibvirtConfigGuestDisk):
    """A disk whose source is an image of a Vitastor cluster."""

    def __init__(self, disk, data):
        super().__init__()
        self.__dict__.update(disk.__dict__)
        self.source_type = 'network'
        self.source_protocol = 'vitastor'
        self.source_name = data['name']
        self.source_hosts, self.source_ports = hosts(data['etcd_address'])
        self._query = data.get('etcd_prefix')
        self._config = data.get('config_path')

    def format_dom(self):
        """The element <disk>, with what only this protocol has."""
        dom = super().format_dom()
        source = dom.find('source')
        if self._query:
            source.set('query', self._query)
        if self._config:
            config = self._new_node('config', file=self._config)
            source.append(config)
        return dom


def hosts(etcd_address):
    """Split addresses of etcd into the hosts and ports of libvirt."""
    names, ports = [], []
    if not isinstance(etcd_address, str):
        etcd_address = ','.join(etcd_address or [])
    for address in filter(None, map(str.strip, etcd_address.split(','))):
        host = address.removeprefix('http://').removesuffix('/')
        host = host.removesuffix('/v3')
        if '/' in host:
            raise exception.InvalidVolume(
                reason='etcd address %s: libvirt can only be told '
                       'http://HOST:PORT' % address)
        name, colon, port = host.rpartition(':')
        if not colon or port.endswith(']'):  # an address of IPv6 has some
            name, port = host, DEFAULT_PORT
        names.append(name)
        ports.append(port)
    return names, ports


class LibvirtVitastorVolumeDriver(libvirt_volume.LibvirtBaseVolumeDriver):
    """Attaches Vitastor volumes."""

    def __init__(self, host):
        super().__init__(host, is_block_dev=False)

    def connect_volume(self, connection_info, instance):
        """Make a device, if that is the way."""
        data = connection_info['data']
        if data.get('device'):
            data['device_path'] = self._attach(data)

    def disconnect_volume(self, connection_info, instance, force=False):
        """Remove the device, if there is one."""
        data = connection_info['data']
        if data.get('device'):
            self._detach(data['name'])

    def get_config(self, connection_info, disk_info):
        """The disk, for libvirt."""
        conf = super().get_config(connection_info, disk_info)
        data = connection_info['data']
        if not data.get('device'):
            return NetworkDisk(conf, data)
        conf.source_type = 'block'
        conf.source_path = data['device_path']
        conf.driver_io = 'native'
        return conf

    def extend_volume(self, connection_info, instance, requested_size):
        """Devices and network disks follow the size of the image."""
        return requested_size

    # ---- devices

    @utils.synchronized('vitastor-devices')
    def _attach(self, data):
        program, device = self._mapped(data['name'])
        if device:
            return device
        reasons = []
        for program in PROGRAMS:
            try:
                out = run(program, 'map', '--image', data['name'],
                          *self._cluster(data))
                return out.split()[-1]
            except processutils.ProcessExecutionError as e:
                reasons.append('%s: %s' % (program, (e.stderr or '').strip()))
        raise exception.InternalError(
            'no block device can be made of %s on this host (%s)' % (
                data['name'], '; '.join(reasons)))

    @utils.synchronized('vitastor-devices')
    def _detach(self, name):
        program, device = self._mapped(name)
        if device:
            run(program, 'unmap', device)

    @staticmethod
    def _mapped(name):
        """The program and device of an image, or None for both."""
        for program in PROGRAMS:
            try:
                mapped = json.loads(run(program, 'ls', '--json') or '{}')
            except processutils.ProcessExecutionError as e:
                LOG.debug('%s ls: %s', program, e.stderr)
                continue
            for device, entry in (mapped or {}).items():
                if entry.get('image') == name:
                    return program, device
        return None, None

    @staticmethod
    def _cluster(data):
        """Options that say where the cluster is."""
        return [word for key in ('config_path', 'etcd_address', 'etcd_prefix')
                if data.get(key) for word in ('--' + key, data[key])]
