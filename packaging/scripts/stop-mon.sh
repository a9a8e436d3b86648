#!/bin/sh
# Before removal, not before an upgrade: the monitor stops.
set -e
case "$1" in
remove | 0) if [ -d /run/systemd/system ]; then systemctl --no-reload disable --now vitastor-mon.service || true; fi ;;
esac
