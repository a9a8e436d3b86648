#!/bin/bash
# Builds the packages: packaging/build.sh OUT deb|rpm... ; `make packages` calls it.
# What they have in them is in packaging/nfpm, and in the folders of the suites.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { echo "usage: $0 OUT deb|rpm..." >&2; exit 2; }
mkdir -p "$1"
out=$(realpath "$1")
shift
ROOT=$out/.root
GO=${GO:-go}
commits=$(git rev-list --count HEAD 2>/dev/null || echo 0)
hash=$(git rev-parse --short=10 HEAD 2>/dev/null || echo unknown)
VERSION=${VERSION:-3.1.0-git$commits.$hash}
VERSION_DEB=${VERSION/-/\~}-1 VERSION_RPM=${VERSION/-/\~}-1
ARCH=$($GO env GOARCH)
export ROOT VERSION VERSION_DEB VERSION_RPM ARCH

rm -rf "$ROOT"
mkdir -p "$ROOT"/{bin,lib,man,tools,completion,doc,nfpm}
cp -r packaging/{systemd,udev,conf,scripts} "$ROOT"
cp frontends/*/*@.service "$ROOT/systemd" 2>/dev/null || true
cp LICENSE "$ROOT/doc/copyright"
cp README.md "$ROOT/doc"

echo "programs and libraries"
find . -path './[a-z]*/vitastor-*/main.go' -printf '%h\0' |
	CGO_ENABLED=0 xargs -0 "$GO" build -trimpath -ldflags='-s -w' -o "$ROOT/bin/"
make -s -C libclient/libvitastor OUT="$ROOT/lib" LIBDIR="/usr/lib/$(gcc -print-multiarch)"
cp libclient/include/vitastor_c.h "$ROOT/lib"
strip "$ROOT"/lib/libvitastor_client.so.3.0.8

echo "manual pages and completion"
$GO -C internal/tools/packages build -o "$ROOT/tools/" github.com/goreleaser/nfpm/v2/cmd/nfpm github.com/cpuguy83/go-md2man/v2
for page in docs/usage/vitastor-*.md; do
	name=$(basename "$page" .md)
	# NAME is the title and the first sentence; links between pages mean nothing to man.
	{
		printf '%% %s(8) Vitastor\n\n# NAME\n\n%s - ' "$name" "$name"
		sed -n '2,$p' "$page" | sed '/./,$!d' | sed -n '1,/^$/p' | tr '\n' ' ' | sed 's/[.:].*//; s/`//g'
		printf '\n\n# DESCRIPTION\n\n'
		sed -e 1d -e 's/\[\([^]]*\)\]([^)]*)/\1/g' "$page"
	} >"$ROOT/man/$name.md"
	"$ROOT/tools/go-md2man" -in "$ROOT/man/$name.md" -out "$ROOT/man/$name.8"
	gzip -9n "$ROOT/man/$name.8"
done
"$ROOT/bin/vitastor-cli" completion bash >"$ROOT/completion/vitastor-cli"
"$ROOT/bin/vitastor-cli" completion zsh >"$ROOT/completion/_vitastor-cli"
"$ROOT/bin/vitastor-cli" completion fish >"$ROOT/completion/vitastor-cli.fish"

# Drivers that belong to another program's version are built where that program
# is installed.
names="vitastor vitastor-osd vitastor-mon vitastor-client vitastor-client-dev vitastor-csi pve-storage-vitastor cinder-vitastor nova-vitastor"
FIO_VERSION=$(dpkg-query -W -f '${Version}' fio 2>/dev/null || true)
QEMU_VERSION=$(dpkg-query -W -f '${Version}' qemu-utils 2>/dev/null || true)
export FIO_VERSION QEMU_VERSION
if [ -n "$FIO_VERSION" ]; then
	make -s -C frontends/fio OUT="$ROOT/lib" SRC="$PWD/bin/.src" && names="$names vitastor-fio"
else
	echo "vitastor-fio is left out: fio is not installed"
fi
if [ -n "$QEMU_VERSION" ]; then
	make -s -C qemu-plugin OUT="$ROOT/lib" SRC="$PWD/bin/.src" && names="$names vitastor-qemu"
else
	echo "vitastor-qemu is left out: QEMU is not installed"
fi
for kind in "$@"; do
	case $kind in
	deb) LIBDIR=/usr/lib/$(gcc -print-multiarch) ;;
	rpm) LIBDIR=/usr/lib64 ;;
	*) echo "unknown kind of packages $kind: deb or rpm" >&2; exit 2 ;;
	esac
	export LIBDIR
	# nfpm expands variables in some fields only
	# shellcheck disable=SC2016 # these are for envsubst
	variables='$ROOT $VERSION $VERSION_DEB $VERSION_RPM $ARCH $LIBDIR $FIO_VERSION $QEMU_VERSION'
	for name in $names; do
		file=packaging/nfpm/$name.yaml
		cat packaging/nfpm/common.yaml "$file" | envsubst "$variables" >"$ROOT/nfpm/this.yaml"
		"$ROOT/tools/nfpm" package --config "$ROOT/nfpm/this.yaml" --packager "$kind" --target "$out" | grep '^created' || { echo "nfpm failed on $file" >&2; exit 1; }
	done
done
rm -rf "$ROOT"
