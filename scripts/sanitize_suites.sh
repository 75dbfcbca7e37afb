#!/bin/sh
# sanitize_suites.sh FOLDER SANITIZERS PROGRAM...: the pytest suites of tests/integration against real
# servers, of which the named programs are built with the sanitizers and the rest as usual (build/).
# Not every program can be: berth-init is a static musl program, and a program that ThreadSanitizer
# gives a second thread must not clone by the raw call, which is what berth-native does all day.
set -eu

folder=$1 sanitizers=$2
shift 2
[ -f "$folder/build.ninja" ] || meson setup "$folder" -Db_sanitize="$sanitizers" -Db_lundef=false --buildtype=debug
ninja -C "$folder"
mixed=$(mktemp -d)
reports=$(mktemp -d)
trap 'rm -rf "$mixed" "$reports"' EXIT
chmod 755 "$mixed"
chmod 1777 "$reports" # the server's user writes there as well
cp "${BUILD:-build}"/berth "${BUILD:-build}"/berth-* "$mixed/"
for program in "$@"; do
    cp "$folder/$program" "$mixed/"
done
# The server cannot be traced, which is what the leak checker wants: the unit tests look for leaks.
# What it keeps of freed memory is little, so that tests can tell a server that grows (BERTH_TEST_LARGE).
export ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16:log_path="$reports/asan"
export BERTH_TEST_LARGE=4
export UBSAN_OPTIONS=print_stacktrace=1:log_path="$reports/ubsan"
export TSAN_OPTIONS=second_deadlock_stack=1:log_path="$reports/tsan"
status=0
# What is held even so looks like growth to two tests of the load, which are left out.
BERTH_BUILD=$mixed /usr/bin/python3 -B -m pytest -p no:cacheprovider -q tests/integration \
    -n "${BERTH_TEST_JOBS:-3}" --dist loadfile -k "not two_thousand_in_a_row and not two_hundred_at_once" || status=1
find "$reports" -type f -size +0 -exec cat {} + -exec false {} + || status=1
exit "$status"
