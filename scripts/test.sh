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

# Most of a test is waiting, so a few go side by side, each file in one process. Those of the load need
# the machine for themselves.
load=tests/integration/test_load.py
run_suites suites -n "${BERTH_TEST_JOBS:-3}" --dist loadfile tests --ignore "$load" || failed=1
run_suites load "$load" || failed=1

/usr/bin/python3 -B scripts/count_tests.py "$results" || failed=1
exit "$failed"
