#!/bin/sh
# Builds qemu-img, qemu-io and qemu-storage-daemon of Debian's QEMU 7.2 with
# patches/qemu-blockdev.patch into DIR, and the driver as their module: 5 to 10
# minutes on two cores. A distribution would do the same in its package of QEMU,
# for all programs.
#
#   apt-get install meson ninja-build libglib2.0-dev zlib1g-dev pkg-config
#   qemu-plugin/patched.sh DIR
#   VITASTOR_E2E=full VITASTOR_PATCHED_QEMU=DIR go test -count=1 -run Blockdev ./internal/e2e/hosts
set -e
[ $# = 1 ] || { sed -n '2,9s/^# \?//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/lib" "$1/packages"
cd "$1"
dir=$PWD
version=$(dpkg-query -W -f '${source:Version}' qemu-utils)
case $version in *:7.2*) ;; *) echo "QEMU $version is installed, the patch is for 7.2" >&2; exit 1 ;; esac
"$here/../internal/tools/apt-source.sh" qemu "$version" "$dir/packages"
rm -rf src
dpkg-source --no-check -x packages/qemu_*.dsc src >/dev/null
patch -d src -p1 <"$here/patches/qemu-blockdev.patch"
mkdir src/build
cd src/build
../configure --without-default-features --enable-modules --enable-tools --disable-system --disable-user --disable-docs \
	--disable-werror >configure.log
ninja qemu-img qemu-io storage-daemon/qemu-storage-daemon
mkdir -p "$dir/bin"
cp qemu-img qemu-io storage-daemon/qemu-storage-daemon "$dir/bin/"
make -C "$here/../libclient/libvitastor" OUT="$dir/lib"
make -C "$here" OUT="$dir/lib" QEMU_SRC="$dir/src" QEMU_IMG="$dir/bin/qemu-img"
