#!/bin/busybox sh
# Process 1 of the machine: does what the console says. Every answer is a line
# that begins with "VM:"; the last one of a command is "VM: done".

# write_file NUMBER: its size depends on its number.
write_file() {
	dd if=/dev/urandom of=/data/f$1 bs=1k count=$((($1 * 37) % 301 + 1)) conv=fsync 2>/dev/null || return 1
	sum /data/f$1 "synced f$1"
}

# overwrite BLOCK: of 4 KiB in a file that has all its blocks.
overwrite() {
	dd if=/dev/urandom of=/tmp/block bs=4k count=1 2>/dev/null || return 1
	dd if=/tmp/block of=/data/blocks bs=4k seek=$1 conv=notrunc,fsync 2>/dev/null || return 1
	sum /tmp/block "synced blocks:$1"
}

# sum FILE TEXT
sum() {
	hash=$(sha256sum <$1) || return 1
	echo "VM: $2 ${hash%% *}"
}

mount -t tmpfs tmpfs /tmp || echo "VM: failed: no /tmp"

echo "VM: ready"
while read -r verb a b; do
	failed=
	case $verb in
	write) # FROM TO
		for i in $(seq $a $b); do
			write_file $i && overwrite $((i * 53 % 2048)) || failed=yes
		done
		;;
	read) # from the disk, not from memory
		echo 3 >/proc/sys/vm/drop_caches
		for f in /data/*; do
			sum $f "read ${f##*/}" || failed=yes
		done
		;;
	delete) # FROM TO; and gives the space back
		for i in $(seq $a $b); do
			rm /data/f$i || failed=yes
		done
		sync
		fstrim / || failed=yes
		;;
	size) # of the disk, in sectors
		read -r sectors </sys/block/vda/size && echo "VM: size $sectors" || failed=yes
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
