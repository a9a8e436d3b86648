#!/bin/sh
# Downloads the Debian source package NAME in VERSION into DIR, also where apt has
# no deb-src lines: it uses lists of its own, made from those of the machine.
set -e
[ $# = 3 ] || { echo "usage: $0 NAME VERSION DIR" >&2; exit 2; }
name=$1 version=$2
mkdir -p "$3/apt/parts" "$3/apt/lists/partial"
cd "$3"
for f in /etc/apt/sources.list.d/*.sources; do
	[ ! -f "$f" ] || sed 's/^Types:.*/Types: deb-src/' "$f" >"apt/parts/$(basename "$f")"
done
cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null | sed -n 's/^deb /deb-src /p' >apt/parts/lines.list
set -- -qq -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$PWD/apt/parts" -o "Dir::State::lists=$PWD/apt/lists"
apt-get "$@" update || echo "some sources could not be read, going on" >&2
apt-get "$@" source --download-only "$name=$version"
