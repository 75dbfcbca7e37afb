#!/bin/sh
# Sessions of an older build under this one's server: builds the commit PREVIOUS beside this tree, and runs
# the suite that needs both.
set -eu

build=${BUILD:-build}
previous=${PREVIOUS:?"PREVIOUS names the commit of the older build"}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
chmod 755 "$scratch" # the server's user goes through it
git archive "$previous" | tar -x -C "$scratch"
meson setup "$scratch/build" "$scratch" >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
programs="berth berth-monitor berth-server berth-native berth-egress berth-init berth-unpack"
# shellcheck disable=SC2086 # a list of words
ninja -C "$scratch/build" $programs >"$scratch/log" 2>&1 || { cat "$scratch/log" >&2; exit 1; }
BERTH_PREVIOUS=$scratch/build BERTH_BUILD=$(cd "$build" && pwd) /usr/bin/python3 -B -m pytest \
    -p no:cacheprovider -ra tests/integration/test_upgrade.py
