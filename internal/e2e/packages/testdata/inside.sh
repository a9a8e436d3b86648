#!/bin/bash
# Runs in a Debian where the packages are installed: what systemd would start is
# started from the units, because there is no systemd running. Arguments: a port
# for etcd, one for the monitor.
set -eu
etcd=127.0.0.1:$1
cd /

say() { echo "== $*"; }

# exec_line UNIT KEY INSTANCE prints a command of a unit; + means as root.
exec_line() { sed -n "s/^$2=//p" "/usr/lib/systemd/system/$1" | sed "s/%i/$3/g"; }

# as_unit UNIT KEY INSTANCE [ARGUMENT...] runs it as systemd does.
as_unit() {
	local line user
	line=$(exec_line "$1" "$2" "$3")
	user=$(sed -n 's/^User=//p' "/usr/lib/systemd/system/$1")
	shift 3
	if [[ $line == +* ]]; then line=${line#+} user=root; fi
	# shellcheck disable=SC2086 # words of a command line
	exec setpriv --reuid "$user" --regid "$user" --clear-groups --no-new-privs $line "$@"
}

say "user and folders"
id vitastor
[ "$(stat -c %U /var/lib/vitastor)" = vitastor ]
[ "$(stat -c %U /etc/vitastor/vitastor.conf)" = root ]

say "what newcomers see first"
if vitastor-cli status 2>/tmp/first; then echo "status works without a cluster"; exit 1; fi
grep etcd_address /tmp/first

cat >/etc/vitastor/vitastor.conf <<EOF
{"etcd_address": ["$etcd"], "bind_address": "127.0.0.1", "osd_network": "127.0.0.0/8", "mon_http_port": $2}
EOF

say "monitor"
(as_unit vitastor-mon.service ExecStart "" --embed_etcd /var/lib/vitastor/etcd --embed_etcd_listen "$etcd") >/var/log/vitastor/mon.log 2>&1 &
for _ in $(seq 100); do
	if vitastor-cli status >/dev/null 2>&1; then break; fi
	sleep 0.2
done
vitastor-cli status

say "disks"
mkdir -p /dev/vitastor /srv/disks
for n in 1 2; do
	truncate -s 1G /srv/disks/$n
	vitastor-disk prepare --osd_num $n --data_device /srv/disks/$n --disable_data_fsync 1 --meta_reserve 2x,16M
	chown vitastor /srv/disks/$n # as the udev rule does for partitions
	ln -s /srv/disks/$n /dev/vitastor/osd$n-data
	(as_unit vitastor-osd@.service ExecStartPre $n)
	(as_unit vitastor-osd@.service ExecStart $n) >/var/log/vitastor/osd$n.log 2>&1 &
done
vitastor-dump-journal --help | grep -q dump-journal

say "pool and image"
for _ in $(seq 100); do
	if [ "$(vitastor-cli --json osds | grep -o '"up": *"up"\|"up": *true' | wc -l)" = 2 ]; then break; fi
	sleep 0.2
done
vitastor-cli osds
vitastor-cli create-pool testpool -s 2 -n 16 --failure_domain osd
for _ in $(seq 300); do
	if vitastor-cli --json pgs active | grep -q '"active"'; then break; fi
	sleep 0.2
done
vita create -s 64M testimg
head -c 4M /dev/urandom >/tmp/random
vitastor-cli dd if=/tmp/random oimg=testimg
vitastor-cli dd iimg=testimg of=/tmp/back count=4 bs=1M
cmp /tmp/random /tmp/back
vitastor-cli ls -l
vitastor-cli status

say "manual pages, completion, libraries"
for page in vitastor-osd vitastor-disk vitastor-mon vitastor-cli vitastor-nbd; do
	zcat /usr/share/man/man8/$page.8.gz | grep -q "^.SH NAME"
done
bash -c 'source /usr/share/bash-completion/completions/vitastor-cli'
ldconfig -p | grep libvitastor_client.so.0
for lib in /usr/lib/*/libvitastor_c*.so.*; do
	if ldd "$lib" | grep 'not found'; then exit 1; fi
done

say "stop"
for pid in $(jobs -p); do kill "$pid"; done
wait
say "all is well"
