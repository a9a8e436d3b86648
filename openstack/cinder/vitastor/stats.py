"""What the scheduler is told: pools, space, capabilities.

With one pool (vitastor_pool_id), the backend itself is the pool, as with the
driver of Vitastor 3.0: existing volumes keep their host.  With several, each
pool of Vitastor is a pool of Cinder: host@backend#pool.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from typing import Any, Optional

from . import names
from .cli import CliError, Image, Pool

# The values are exact; Cinder counts in GiB.
GIB = names.GIB


@dataclasses.dataclass(frozen=True)
class Settings:
    """The cluster and the pools of a backend section."""

    config_path: str
    etcd_address: str         # '' = nobody says it here
    etcd_prefix: str
    wanted: tuple[str, ...]   # IDs or names; empty = all pools
    writeback: bool           # clients keep writes in memory

    @classmethod
    def read(cls, config_path: Optional[str], etcd_address: Optional[str],
             etcd_prefix: Optional[str], pools: Optional[str]) -> 'Settings':
        """Options of cinder.conf, and what the config file adds to them."""
        file = _config_file(config_path or '')
        address = etcd_address or file.get('etcd_address') or ''
        if isinstance(address, list):
            address = ','.join(address)
        wanted = tuple(p.strip() for p in (pools or '').split(',')
                       if p.strip())
        writeback = str(file.get('client_enable_writeback', '')).lower()
        return cls(config_path or '', address,
                   etcd_prefix or file.get('etcd_prefix') or '/vitastor',
                   wanted, writeback in ('1', 'true', 'yes'))

    @property
    def single(self) -> str:
        """The only pool of the backend, or ''."""
        return self.wanted[0] if len(self.wanted) == 1 else ''

    def choose(self, pools: Iterable[Pool]) -> list[Pool]:
        """The pools of this backend."""
        pools = list(pools)
        if not self.wanted:
            return [p for p in pools if not p.application]
        chosen = []
        for want in self.wanted:
            found = [p for p in pools if want in (str(p.id), p.name)]
            if not found:
                raise CliError(2, f'pool {want} of vitastor_pool_id does not '
                               'exist; there are: ' +
                               (', '.join(p.name for p in pools) or 'none'))
            chosen.append(found[0])
        return chosen

    def location(self, pool: Optional[Pool] = None) -> str:
        """Says which cluster and pool this is, for migration."""
        return json.dumps({'config': self.config_path,
                           'etcd_address': self._addresses(),
                           'etcd_prefix': self.etcd_prefix,
                           'pool_id': str(pool.id) if pool else ''})

    def _addresses(self) -> list[str]:
        return sorted(re.sub(r'^https?://|/v3/?$|/$', '', a.strip())
                      for a in self.etcd_address.split(',') if a.strip())

    def pool_of_capabilities(self, capabilities: Any) -> Optional[str]:
        """The pool of a backend, if it is one of this cluster."""
        try:
            there = json.loads(capabilities.get('location_info') or '')
            here = json.loads(self.location())
            if any(there[k] != here[k]
                   for k in ('etcd_address', 'etcd_prefix')):
                return None
            return there['pool_id'] or None
        except (ValueError, KeyError, TypeError):
            return None


def _config_file(path: str) -> dict:
    """The configuration file of the cluster; {} if there is none."""
    try:
        with open(path, encoding='utf-8') as f:
            content = json.load(f)
    except (OSError, ValueError):
        return {}  # the programs will say what is wrong with it
    return content if isinstance(content, dict) else {}


@dataclasses.dataclass(frozen=True)
class Backend:
    """What does not change while Cinder runs."""

    name: str
    version: str
    reserved_percentage: Any
    max_over_subscription_ratio: Any
    filter_function: Optional[str]
    goodness_function: Optional[str]

    def capabilities(self, settings: Settings) -> dict:
        """What is the same for all pools."""
        return {
            'volume_backend_name': self.name,
            'vendor_name': 'Vitastor',
            'driver_version': self.version,
            'storage_protocol': 'vitastor',
            'replication_enabled': False,
            'location_info': settings.location(),
        }

    def stats(self, settings: Settings, pools: list[Pool],
              images: list[Image]) -> dict:
        """Everything, for one backend."""
        found = [self._pool(settings, p, images) for p in pools]
        up = any(p.active for p in pools)
        common = {**self.capabilities(settings),
                  'backend_state': 'up' if up else 'down'}
        if settings.single:
            found[0].pop('pool_name')
            return {**common, **found[0]}
        return {**common, 'pools': found}

    def _pool(self, settings: Settings, pool: Pool,
              images: list[Image]) -> dict:
        volumes = [i.size for i in images
                   if i.pool_id == pool.id and not names.is_snapshot(i)]
        return {
            'pool_name': pool.name,
            'total_capacity_gb': round(pool.total / GIB, 2),
            'free_capacity_gb': round(pool.free / GIB, 2),
            'provisioned_capacity_gb': round(sum(volumes) / GIB, 2),
            'total_volumes': len(volumes),
            'reserved_percentage': self.reserved_percentage,
            'max_over_subscription_ratio': self.max_over_subscription_ratio,
            'thin_provisioning_support': True,
            'thick_provisioning_support': False,
            # Two clients with unwritten data would not see each other's.
            'multiattach': not settings.writeback,
            'online_extend_support': True,
            'sparse_copy_volume': True,
            'QoS_support': False,  # it is Nova that limits
            'location_info': settings.location(pool),
            'backend_state': 'up' if pool.active else 'down',
            'filter_function': self.filter_function,
            'goodness_function': self.goodness_function,
        }
