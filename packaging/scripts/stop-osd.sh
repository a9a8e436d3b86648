#!/bin/sh
# Before removal, not before an upgrade: the OSDs of this host stop.
set -e
case "$1" in
remove | 0) if [ -d /run/systemd/system ]; then systemctl --no-reload disable --now vitastor.target 'vitastor-osd@*' || true; fi ;;
esac
