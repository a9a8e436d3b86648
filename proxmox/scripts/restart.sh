#!/bin/sh
# The services of Proxmox read plugins when they start. Guests go on meanwhile.
set -e
if [ -d /run/systemd/system ]; then
	for service in pvedaemon pvestatd pveproxy pvescheduler; do
		systemctl try-reload-or-restart "$service.service" || true
	done
fi
