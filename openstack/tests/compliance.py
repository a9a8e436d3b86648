"""Runs the compliance tests that Cinder ships, for our driver.

They look at every driver below cinder.volume.drivers; that ours is one of them
is checked first.
"""

from __future__ import annotations

import os
import sys
import unittest

import package

package.install()
os.chdir('/usr/lib/python3/dist-packages')

from cinder.interface import util  # noqa: E402
from cinder.volume.drivers import vitastor  # noqa: E402,F401 (registers it)

# Collects the drivers that are registered when it is imported.
from cinder.tests.compliance import test_volume_drivers  # noqa: E402

OURS = 'cinder.volume.drivers.vitastor.driver.VitastorDriver'


def load_tests(loader: unittest.TestLoader, *_: object) -> object:
    """The tests of Cinder's module."""
    assert OURS in [d.class_fqn for d in util.get_volume_drivers()]
    assert OURS in [d.class_fqn for d in test_volume_drivers.VOLUME_DRIVERS]
    return loader.loadTestsFromModule(test_volume_drivers)


if __name__ == '__main__':
    suite = load_tests(unittest.defaultTestLoader)
    result = unittest.TextTestRunner().run(suite)
    sys.exit(not result.wasSuccessful())
