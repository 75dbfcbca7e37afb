#!/bin/sh
# sanitize.sh FOLDER SANITIZERS: builds with the sanitizers and runs the unit tests.
set -eu

[ -f "$1/build.ninja" ] || meson setup "$1" -Db_sanitize="$2" -Db_lundef=false --buildtype=debug
ninja -C "$1"
# A report has to fail the test even where the program would go on.
export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
case $2 in
thread) set -- "$@" --no-suite one-thread ;;
esac
folder=$1
shift 2
exec meson test -C "$folder" --no-rebuild --print-errorlogs "$@"
