"""Options of a backend section of cinder.conf."""

from __future__ import annotations

from oslo_config import cfg

from cinder.volume import configuration

OPTIONS = [
    cfg.StrOpt('vitastor_config_path', default='/etc/vitastor/vitastor.conf',
               help='Configuration file of the cluster.'),
    cfg.StrOpt('vitastor_etcd_address', default='',
               help='Addresses of etcd, with commas between them. Empty: '
                    'those of the configuration file.'),
    cfg.StrOpt('vitastor_etcd_prefix', default='/vitastor',
               help='Prefix of the keys of the cluster in etcd.'),
    cfg.StrOpt('vitastor_pool_id', default='',
               help='IDs or names of the pools of this backend, with commas '
                    'between them. Empty: all pools of the cluster. A single '
                    'pool has the name of the backend, as with the driver of '
                    'Vitastor 3.0.'),
    cfg.StrOpt('vitastor_attach', default='auto',
               choices=[
                   ('auto', 'hosts whose Nova is patched make block devices '
                            'themselves; others must be this host'),
                   ('device', 'a block device of this host'),
                   ('target', 'a block device of this host, exported with '
                              'target_helper (iSCSI, NVMe-oF)'),
                   ('network', 'network disks: Nova and libvirt are patched'),
               ],
               help='How servers get at volumes.'),
    cfg.ListOpt('vitastor_device_programs',
                default=['vitastor-vduse', 'vitastor-ublk', 'vitastor-nbd'],
                help='Programs that may make block devices, the best first.'),
    cfg.StrOpt('vitastor_device_dir', default='/run/vitastor/cinder',
               help='Folder of links to block devices; must belong to the '
                    'user of cinder-volume.'),
    cfg.StrOpt('vitastor_cli', default='vitastor-cli',
               help='The program vitastor-cli.'),
]

cfg.CONF.register_opts(OPTIONS, group=configuration.SHARED_CONF_GROUP)
