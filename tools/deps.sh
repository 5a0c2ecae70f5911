#!/bin/bash
# deps.sh PACKAGE... - installs the Debian packages that are missing, and says so; exit 2 with the exact line to type
# when something is missing and we are not root.
set -eu
missing=()
for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
    echo "deps     $# packages, already here"
    exit 0
fi
if ! command -v apt-get >/dev/null; then
    echo "deps     missing, and this is not Debian or Ubuntu: ${missing[*]}" >&2
    exit 2
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "deps     missing packages; install them with" >&2
    echo "         sudo apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 2
fi
echo "deps     installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    echo "deps     apt-get failed (above); try: apt-get install -y --no-install-recommends ${missing[*]}" >&2
    exit 2
fi
echo "deps     done"
