#!/bin/bash
# A host for the page: libvirtd without systemd. Arguments: a folder of the test,
# that of our programs, the configuration of the cluster, that of the units.
# Runs in namespaces of its own for mounts and processes.
set -e
dir=$1 bin=$2 config=$3 units=$4
mount --make-rprivate /
mkdir -p "$dir/bin" "$dir/work"
for d in etc var; do
	mkdir "$dir/$d" "$dir/$d.work"
	mount -t overlay overlay -o "lowerdir=/$d,upperdir=$dir/$d,workdir=$dir/$d.work" "/$d"
done
mount -t tmpfs tmpfs /run

getent group kvm >/dev/null || groupadd -r kvm
getent passwd libvirt-qemu >/dev/null || useradd -r -g kvm -d /var/lib/libvirt -s /usr/sbin/nologin libvirt-qemu
getent group libvirt-qemu >/dev/null || groupadd -r libvirt-qemu
getent passwd vitastor >/dev/null || useradd -r -U -s /usr/sbin/nologin vitastor
mkdir -p /etc/vitastor /etc/libvirt /etc/systemd/system
cp "$config" /etc/vitastor/vitastor.conf
# What only systemd and AppArmor could do is off; the users are those of Debian.
cat >/etc/libvirt/qemu.conf <<END
user = "libvirt-qemu"
group = "kvm"
security_driver = "none"
dynamic_ownership = 1
remember_owner = 0
stdio_handler = "file"
cgroup_controllers = [ ]
END

# systemctl enable|disable --now NAME@INSTANCE: what systemd makes of our units.
cat >"$dir/bin/systemctl" <<END
#!/bin/bash
set -e
verb=\$1 unit=\${3:-\$2}
[ "\$verb" = daemon-reload ] && exit
template=\${unit%@*}@.service instance=\${unit#*@}
of() { cat "$units/\$template" /etc/systemd/system/\$template.d/*.conf 2>/dev/null | sed -n "s/^\$1=//p" | tail -n 1; }
pid=/run/\$unit.pid
stop() { [ -e "\$pid" ] && kill -- -\$(cat "\$pid") && rm "\$pid" || true; }
case \$verb in
enable)
	user=\$(of User) run=\$(of RuntimeDirectory) umask=\$(of UMask) command=\$(of ExecStart)
	mkdir -p /run/\$run && chown \${user:-root} /run/\$run
	command=\${command//%I/\$instance}
	command=\${command//%i/\$instance}
	umask \${umask:-0022}
	setsid bash -c "echo \\\$\\\$ >\$pid; while :; do setpriv --reuid \${user:-root} --regid \${user:-root} --init-groups $bin/\${command#/usr/bin/}; sleep 1; done" \
		>>/run/\$unit.log 2>&1 </dev/null &
	path=\$(grep -o '[^ ]*\.sock' <<<"\$command")
	for i in {1..200}; do [ -S "\$path" ] && exit; sleep 0.05; done
	cat /run/\$unit.log >&2
	exit 1
	;;
disable) stop ;;
*) echo "systemctl \$verb?" >&2; exit 1 ;;
esac
END
chmod 755 "$dir/bin/systemctl"

export PATH=$dir/bin:$bin:/usr/sbin:/usr/bin:/sbin:/bin
virtlogd &
libvirtd &
for _ in {1..200}; do
	if virsh -q list >/dev/null 2>&1; then
		echo ready
		break
	fi
	sleep 0.1
done
wait
