"""Cinder driver of Vitastor: volumes are images of a Vitastor cluster.

    volume_driver = cinder.volume.drivers.vitastor.VitastorDriver

cli.py       the commands of vitastor-cli; no Cinder in it
devices.py   images as block devices of this host; no Cinder in it
options.py   options of cinder.conf
errors.py    errors of commands as exceptions of Cinder
driver.py    volumes, snapshots, statistics, migration, managing
connect.py   how servers get at volumes
transfer.py  copying from and to Glance, encryption

Guarantee: an operation that failed, or that was killed anywhere, can be
repeated, or the volume deleted; either leaves no image, snapshot or device
that is not asked for, and no volume loses data that it had before.
"""

from cinder.volume.drivers.vitastor.driver import VitastorDriver

__all__ = ('VitastorDriver',)
