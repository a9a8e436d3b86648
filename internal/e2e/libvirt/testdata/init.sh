#!/bin/busybox sh
# Process 1 of the machine: does what the console says. Every answer is a line
# that begins with "VM:"; the last one of a command is "VM: done".

mount -t tmpfs tmpfs /tmp
echo "VM: ready"
while read -r verb a b; do
	failed=
	case $verb in
	disks) # names and sectors
		for d in /sys/block/vd*; do
			echo "VM: ${d##*/} $(busybox cat "$d/size")"
		done
		;;
	write) # DISK TEXT, at 1 MiB, durable
		busybox printf '%-4096s' "$b" >/tmp/block
		dd if=/tmp/block of=/dev/$a bs=4k seek=256 conv=notrunc,fsync 2>/dev/null || failed=yes
		;;
	read) # DISK, from 1 MiB, not from memory
		echo 3 >/proc/sys/vm/drop_caches
		dd if=/dev/$a bs=4k skip=256 count=1 2>/dev/null >/tmp/block && echo "VM: $(busybox tr -d ' ' </tmp/block)" || failed=yes
		;;
	file) # TEXT, in a file of the root
		echo "$a" >/data/file && sync || failed=yes
		echo 3 >/proc/sys/vm/drop_caches
		echo "VM: $(busybox cat /data/file)"
		;;
	halt)
		sync
		mount -o remount,ro / && echo "VM: done" && poweroff -f
		failed=yes
		;;
	esac
	if [ "$failed" ]; then
		dmesg | tail -n 20
		echo "VM: failed: $verb $a $b"
	else
		echo "VM: done"
	fi
done
