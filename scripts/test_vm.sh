#!/bin/sh
# make test-vm: the suites inside a virtual machine of Debian's own kernel, where systemd is PID 1 and
# cgroups are version 2 alone. Installs the build there, starts it by its unit, runs tests/ and prints
# the count; the exit status is that of the suites.
#
#   VM_CACHE      where the machine's disk is kept (${XDG_CACHE_HOME:-~/.cache}/berth/vm)
#   VM_MEMORY     MiB (2048)         VM_CPUS  processors (2)
#   VM_TIMEOUT    seconds for all of it (7200)
#   VM_SUITES     what pytest is given (tests)        VM_PYTEST  more words for pytest
#   VM_KEEP=1     keeps the folder of the run (console, results, disks) and says where it is
#   BERTH_TEST_SLOW  factor on the tests' bounds against hangs (8 under emulation, 1 with KVM)
set -eu

build=${BUILD:-build}
cache=${VM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/berth/vm}
here=$(dirname "$0")
timeout_secs=${VM_TIMEOUT:-7200}
began=$(date +%s)

# Inside the machine: what berth is linked with, what the suites call, what the machine itself needs. Of the
# languages Python alone: what is skipped for want of another one, or of a network, is allowed by name in
# tests/conftest.py, and any other skip fails there. debootstrap takes no virtual package: netavark is what
# skopeo's configuration wants of one.
guest_packages="systemd,systemd-sysv,udev,kmod,linux-image-cloud-amd64,initramfs-tools,\
libmicrohttpd12,libwslay1,libjansson4,libsqlite3-0,libcurl4,libedit2,libinih1,libmnl0,nftables,libseccomp2,libarchive13,libcmocka0,\
python3,python3-pytest,python3-pip,curl,procps,iproute2,strace,e2fsprogs,sudo,groff-base,ca-certificates,\
python3-numpy,python3-pandas,python3-matplotlib,docker.io,containerd,runc,runsc,iptables,uidmap,sqlite3,\
skopeo,golang-github-containers-common,netavark"

say() { echo "test-vm: $*"; }
fail() {
    echo "test-vm: $*" >&2
    exit 1
}

# The kernel and its modules come from inside the machine, so nothing of this host's /boot changes.
install_tools() {
    missing=""
    for package in qemu-system-x86 debootstrap e2fsprogs; do
        state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
        [ "$state" = "install ok installed" ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing$missing"
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}

# The disk of the machine, made once for each list of packages and recipe; the runs write beside it.
make_base() {
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    [ "$suite" = bookworm ] ||
        fail "this host is not Debian 12: the programs built here would not find their libraries there"
    key=$(printf '%s %s\n' "$suite" "$guest_packages" | cat - "$here/test_vm_unit.service" | sha256sum |
        cut -c 1-16)
    base=$cache/$key
    [ ! -e "$base/disk.img" ] || return 0
    say "making the machine's disk in $base (some minutes, once)"
    mkdir -p "$cache"
    root=$(mktemp -d "$cache/making.XXXXXX")
    trap 'rm -rf "$root"' EXIT
    mkdir "$root/files" "$root/out"
    debootstrap --variant=minbase --include="$guest_packages" "$suite" "$root/files" \
        >"$root/log" 2>&1 || { tail -n 20 "$root/log"; fail "debootstrap failed"; }
    echo berth-vm >"$root/files/etc/hostname"
    printf '127.0.0.1 localhost berth-vm\n::1 localhost\n' >"$root/files/etc/hosts"
    printf '/dev/vda / ext4 defaults 0 1\n' >"$root/files/etc/fstab"
    rm -rf "$root/files/var/cache/apt/archives" "$root/files/var/lib/apt/lists"
    mkdir -p "$root/files/var/cache/apt/archives/partial" "$root/files/var/lib/apt/lists/partial"
    cp "$here/test_vm_unit.service" "$root/files/etc/systemd/system/berth-test.service"
    mkdir -p "$root/files/etc/systemd/system/multi-user.target.wants"
    ln -s ../berth-test.service "$root/files/etc/systemd/system/multi-user.target.wants/"
    for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer \
        dpkg-db-backup.timer getty@tty1.service serial-getty@ttyS0.service \
        docker.service docker.socket containerd.service; do # suites start daemons of their own
        ln -sf /dev/null "$root/files/etc/systemd/system/$unit"
    done
    cp "$root"/files/boot/vmlinuz-* "$root/out/vmlinuz"
    cp "$root"/files/boot/initrd.img-* "$root/out/initrd"
    rm -f "$root"/files/boot/initrd.img-*
    truncate -s 6G "$root/out/disk.img"
    mke2fs -q -F -t ext4 -d "$root/files" "$root/out/disk.img"
    chmod 755 "$root/out"
    mv "$root/out" "$base"
    rm -rf "$root"
    trap - EXIT
}

# Sources, programs and a staged installation: all that this run brings into the machine.
make_payload() {
    mkdir -p "$run/payload/repo/build" "$run/payload/install"
    tar -c --exclude=./.git --exclude='./build*' . | tar -x -C "$run/payload/repo"
    (cd "$build" && find . -type f -perm -u+x ! -name '*.so*' -print0 | tar -c --null -T -) |
        tar -x -C "$run/payload/repo/build"
    DESTDIR=$run/payload/install meson install -C "$build" --no-rebuild --quiet >/dev/null
    {
        echo "BERTH_TEST_SLOW=$slow"
        echo "SUITES_SECS=$((timeout_secs * 9 / 10))"
        echo "VM_SUITES='${VM_SUITES:-tests}'"
        echo "VM_PYTEST='${VM_PYTEST:-}'"
    } >"$run/payload/settings"
    chmod 755 "$run/payload"
    kib=$(du -sk "$run/payload" | cut -f 1)
    truncate -s $((kib * 5 / 4 + 65536))K "$run/payload.img"
    mke2fs -q -F -t ext4 -d "$run/payload" "$run/payload.img"
    rm -rf "$run/payload"
    truncate -s 64M "$run/results.img"
}

# Whether KVM runs a kernel here. On some hosts /dev/kvm is there and qemu aborts.
kvm_works() {
    [ -w /dev/kvm ] || return 1
    timeout 20 qemu-system-x86_64 -accel kvm -M q35 -cpu max -m 512 -nographic -no-reboot -nic none \
        -kernel "$base/vmlinuz" -append 'console=ttyS0 panic=-1' </dev/null 2>/dev/null |
        grep -q 'Linux version'
}

boot() {
    # The exit status of qemu says nothing about the suites: their results do.
    timeout "$timeout_secs" qemu-system-x86_64 -accel "$accel" -M q35 -cpu max \
        -m "${VM_MEMORY:-2048}" -smp "${VM_CPUS:-2}" -nographic -no-reboot -nic none \
        -kernel "$base/vmlinuz" -initrd "$base/initrd" \
        -append 'console=ttyS0 root=/dev/vda rw quiet loglevel=3 panic=-1 systemd.show_status=no' \
        -drive "file=$base/disk.img,if=virtio,format=raw,snapshot=on" \
        -drive "file=$run/payload.img,if=virtio,format=raw" \
        -drive "file=$run/results.img,if=virtio,format=raw" \
        </dev/null 2>&1 | tr -d '\r' | tee "$run/console"
}

[ "$(id -u)" -eq 0 ] || exec sudo -E BUILD="$build" HOME="$HOME" "$0" "$@"
install_tools
make_base
run=$(mktemp -d "${TMPDIR:-/tmp}/berth-vm.XXXXXX")
finish() {
    if [ "${VM_KEEP:-}" = 1 ]; then say "kept: $run"; else rm -rf "$run"; fi
}
trap finish EXIT
if kvm_works; then
    accel=kvm slow=${BERTH_TEST_SLOW:-1}
else
    accel=tcg slow=${BERTH_TEST_SLOW:-8}
fi
make_payload
say "booting ($accel; bounds against hangs are $slow times as long)"
boot
mkdir "$run/results"
tar -x -f "$run/results.img" -C "$run/results" 2>/dev/null || true
[ -e "$run/results/status" ] || fail "the machine left no results; its console is above"
rm -rf "$build/vm-results"
cp -r "$run/results" "$build/vm-results"
status=$(cat "$run/results/status")
say "$(cat "$run/results/machine" 2>/dev/null)"
say "wall time $(($(date +%s) - began)) s, accelerator $accel; results in $build/vm-results"
/usr/bin/python3 -B scripts/count_tests.py "$build/vm-results" || fail "the suites failed"
[ "$status" = 0 ] || fail "the suites or the unit failed (status $status)"
