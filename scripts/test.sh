#!/bin/sh
# Unit tests (meson), then the pytest suites against the real programs. The last line is the total:
# "N passed, N failed, N skipped". Fails on a failure, and when more tests skip than BERTH_SKIPS_MAX
# (unset: any number).
set -u

build=${BUILD:-build}
results=$build/test-results
rm -rf "$results"
mkdir -p "$results"
failed=0

meson test -C "$build" --no-rebuild --print-errorlogs || failed=1
cp "$build/meson-logs/testlog.junit.xml" "$results/unit.xml" 2>/dev/null || failed=1

run_suites() { # NAME, what to run
    name=$1
    shift
    BERTH_BUILD=$(cd "$build" && pwd) /usr/bin/python3 -B -m pytest -p no:cacheprovider -ra \
        --junitxml "$results/$name.xml" "$@"
}

# The kernels' need no server and measure nothing of the host, so they go beside the rest.
run_suites kernels tests/kernel >"$results/kernels.log" 2>&1 </dev/null &
kernels=$!
run_suites suites tests --ignore tests/kernel || failed=1
wait "$kernels" || failed=1
cat "$results/kernels.log"

/usr/bin/python3 -B scripts/count_tests.py "$results" || failed=1
exit "$failed"
