#!/bin/sh
# Installs the Debian packages of the named groups of packages.txt: packages.sh GROUP ...
# Without root it names those that are missing, and fails.
set -eu

list=$(dirname "$0")/packages.txt
missing=
for group in "$@"; do
    packages=$(sed -n "/^\[$group\]\$/,/^\[/{/^[a-z0-9]/p}" "$list")
    if [ -z "$packages" ]; then
        echo "packages.sh: there is no group '$group' in $list" >&2
        exit 2
    fi
    for package in $packages; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
        [ "$status" = installed ] || missing="$missing $package"
    done
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "These Debian packages are missing; as root:" >&2
    echo "    apt-get install --no-install-recommends$missing" >&2
    exit 1
fi
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
# shellcheck disable=SC2086 # a list of words
apt-get -q install -y --no-install-recommends $missing
