#!/bin/busybox sh
# /init of the initramfs: mounts the partition and goes on there.
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
stty -echo
echo "VM: kernel $(uname -r) runs"
for module in /modules/*.ko; do
	[ -e "$module" ] && insmod "$module"
done
tries=0
until [ -b /dev/vda1 ]; do
	tries=$((tries + 1))
	if [ $tries -gt 100 ]; then
		echo "VM: failed: no /dev/vda1"
		poweroff -f
	fi
	usleep 100000
done
mount -t ext4 -o data=ordered /dev/vda1 /root || {
	echo "VM: failed: cannot mount /dev/vda1"
	poweroff -f
}
mount --move /proc /root/proc
mount --move /sys /root/sys
mount --move /dev /root/dev
exec switch_root /root /sbin/init
