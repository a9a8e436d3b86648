#!/bin/sh
# After installation: Nova learns the name of the driver. An update of Nova takes
# that away: reconfigure this package then.
set -e
cd /usr/lib/python3/dist-packages
if patch -p1 --dry-run --reverse --force --silent </usr/share/vitastor/nova.diff >/dev/null 2>&1; then exit 0; fi
patch -p1 --forward --reject-file=- </usr/share/vitastor/nova.diff ||
	echo "nova-vitastor: the patch does not fit this version of Nova: see /usr/share/vitastor/nova.diff" >&2
