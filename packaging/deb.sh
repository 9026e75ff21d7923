#!/bin/sh
# Builds spice-sessiond_VERSION_all.deb in FOLDER, which is emptied first: deb.sh FOLDER
# It works on a copy of what goes into the package: the tree itself gets no debian/, and what else
# lies about in it gets into no package.
set -eu

folder=$(realpath --canonicalize-missing "$1")
cd "$(dirname "$0")/.."
rm -rf "$folder"
mkdir -p "$folder/source"
cp -R agent sessiond dbus systemd docs packaging README.md LICENSE pyproject.toml "$folder/source"
cd "$folder/source"
find . -name __pycache__ -prune -exec rm -r {} +
mv packaging/debian debian
dpkg-buildpackage --build=binary --no-sign
