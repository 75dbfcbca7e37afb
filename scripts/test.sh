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

suites=$(find tests -name 'test_*.py' | head -n 1)
if [ -n "$suites" ]; then
    BERTH_BUILD=$(cd "$build" && pwd) /usr/bin/python3 -B -m pytest -p no:cacheprovider -ra \
        --junitxml "$results/suites.xml" tests
    status=$?
    # 5: no test was collected
    [ "$status" -eq 0 ] || [ "$status" -eq 5 ] || failed=1
fi

/usr/bin/python3 -B scripts/count_tests.py "$results" || failed=1
exit "$failed"
