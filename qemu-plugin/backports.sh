#!/bin/sh
# Puts the QEMU of Debian's backports into DIR, with the driver for it: to test
# against a newer QEMU than the one that is installed, which is left alone.
#
#   qemu-plugin/backports.sh DIR
#   VITASTOR_E2E=full VITASTOR_OTHER_QEMU=DIR go test -count=1 ./internal/e2e/hosts
set -e
[ $# = 1 ] || { sed -n '2,6s/^# \?//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/apt/lists/partial" "$1/lib" "$1/packages"
cd "$1"
dir=$PWD
for type in deb deb-src; do
	echo "$type [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm-backports main"
done >apt/sources.list
set -- -qq -o "Dir::Etc::sourcelist=$dir/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$dir/apt/lists" \
	-o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root
apt-get "$@" update
cd packages
version=$(apt-cache "$@" madison qemu-utils | awk '$2 == "|" { print $3; exit }')
apt-get "$@" download "qemu-utils=$version" "qemu-system-x86=$version" "qemu-system-common=$version"
for package in *.deb; do
	dpkg -x "$package" "$dir"
done
# Only headers are needed, which Debian does not patch; mirrors do not always have the other files.
apt-get "$@" source --download-only "qemu=$version" || echo "going on with what could be fetched" >&2
rm -rf "$dir/src"
mkdir "$dir/src"
tar -xf qemu_*.orig.tar.xz --strip-components=1 -C "$dir/src"
make -C "$here/../libclient/libvitastor" OUT="$dir/lib"
make -C "$here" OUT="$dir/lib" QEMU_SRC="$dir/src" QEMU_IMG="$dir/usr/bin/qemu-img"
