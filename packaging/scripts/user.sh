#!/bin/sh
# After installation: the user of the daemons and their folders.
set -e
if ! getent group vitastor >/dev/null; then groupadd --system vitastor; fi
if ! getent passwd vitastor >/dev/null; then
	useradd --system --gid vitastor --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin vitastor
fi
install -d -m 755 /etc/vitastor
install -d -m 755 -o vitastor -g vitastor /var/lib/vitastor /var/log/vitastor
if [ -d /run/systemd/system ]; then systemctl daemon-reload || true; fi
if [ -d /run/udev ]; then udevadm control --reload-rules || true; fi
