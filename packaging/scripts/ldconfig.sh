#!/bin/sh
# After installation: programs find the library.
set -e
ldconfig
