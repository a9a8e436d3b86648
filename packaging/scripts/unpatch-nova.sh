#!/bin/sh
# Before removal: Nova as it was.
set -e
cd /usr/lib/python3/dist-packages
if patch -p1 --dry-run --reverse --force --silent </usr/share/vitastor/nova.diff >/dev/null 2>&1; then
	patch -p1 --reverse --silent </usr/share/vitastor/nova.diff
fi
