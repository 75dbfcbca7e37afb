#!/bin/sh
# Inside the virtual machine of scripts/test_vm.sh: installs berth, starts it by its unit, runs the
# suites. Leaves JUnit files, the journal and the status in /results.
set -u

mkdir -p /results
. /srv/vm/settings
export BERTH_TEST_SLOW
cp -a /srv/vm/install/. /
systemd-sysusers
systemctl daemon-reload
echo "kernel $(uname -r), systemd $(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')," \
    "cgroups $(stat -f -c %T /sys/fs/cgroup), $(nproc) processors" >/results/machine
status=0
if ! systemctl start berth.service; then
    systemctl --no-pager status berth.service
    journalctl --no-pager -u berth.service | tail -n 40
    status=1
fi
# From here on the port is free, and tests/vm starts the service again when it is its turn.
[ "$status" -ne 0 ] || berth run -c 'print("hello from the service")' || status=1
systemctl stop berth.service berth-sandboxes.service
cd /srv/vm/repo || exit 1
# shellcheck disable=SC2086 # lists of words
# Cut short, pytest still tells what failed until then.
BERTH_VM=1 BERTH_BUILD=/srv/vm/repo/build PYTHONUNBUFFERED=1 \
    timeout --signal=INT "$SUITES_SECS" /usr/bin/python3 -B -m pytest \
    -p no:cacheprovider -v --color=no -ra --junitxml /results/suites.xml ${VM_PYTEST:-} $VM_SUITES || status=$?
journalctl --no-pager -b >/results/journal 2>&1
echo "$status" >/results/status
