#!/bin/sh
# Runs each libFuzzer target for SECONDS_EACH seconds, from its kept corpus. What it finds goes to
# build-fuzz/found/; a crash is left there as a file to add to tests/fuzz/corpus.
set -eu

seconds=${SECONDS_EACH:-30}
[ -f build-fuzz/build.ninja ] ||
    CC=clang meson setup build-fuzz -Dfuzzers=true -Db_sanitize=address,undefined -Db_lundef=false
targets=$(cd tests/fuzz && ls fuzz_*.c | sed 's/\.c$//')
for target in $targets; do
    [ "$target" != fuzz_main ] || continue
    ninja -C build-fuzz "tests/fuzz/$target" >/dev/null
    found=build-fuzz/found/$target
    mkdir -p "$found"
    echo "fuzz: $target for $seconds s"
    "build-fuzz/tests/fuzz/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 \
        -print_final_stats=1 -verbosity=0 -artifact_prefix="$found/" \
        "$found" "tests/fuzz/corpus/$target"
done
