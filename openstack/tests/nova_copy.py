"""Patches a copy of the installed Nova and runs tests in it.

    nova_copy.py [TEST...]       default: ours, and Nova's own of its volumes
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
OURS = os.path.dirname(HERE)
NOVA = '/usr/lib/python3/dist-packages/nova'
VOLUMES = 'nova/virt/libvirt/volume'
TESTS = ['nova.tests.unit.virt.libvirt.volume.test_vitastor',
         'nova.tests.unit.virt.libvirt.volume.test_net',
         'nova.tests.unit.virt.libvirt.volume.test_volume',
         'nova.tests.unit.virt.libvirt.volume.test_nvme',
         'nova.tests.unit.virt.libvirt.volume.test_storpool']


def main() -> int:
    """Returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(NOVA, os.path.join(folder, 'nova'),
                        ignore=shutil.ignore_patterns('__pycache__'))
        shutil.copy(os.path.join(OURS, 'nova', 'vitastor.py'),
                    os.path.join(folder, VOLUMES))
        shutil.copy(os.path.join(HERE, 'test_nova.py'), os.path.join(
            folder, 'nova/tests/unit/virt/libvirt/volume/test_vitastor.py'))
        subprocess.run(['patch', '-p1', '-i', os.path.join(
            OURS, 'patches', 'nova.diff')], cwd=folder, check=True)
        return subprocess.run(
            [sys.executable, '-m', 'unittest', *(sys.argv[1:] or TESTS)],
            cwd=folder).returncode


if __name__ == '__main__':
    sys.exit(main())
