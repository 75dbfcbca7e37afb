#!/bin/sh
# Installs what the build and the tests need, by apt, and makes the system users that the server and
# berth-egress run as; `deps.sh languages`: the toolchains of all languages that are shipped, which tests
# of them run; `deps.sh engines`: Docker, Podman and gVisor, of which tests start a daemon of their own.
# Does nothing, and needs no root, when nothing is missing.
set -eu

packages="gcc make meson ninja-build pkg-config libmicrohttpd-dev libjansson-dev libsqlite3-dev
libwslay-dev libseccomp-dev libarchive-dev libinih-dev libmnl-dev nftables libcurl4-openssl-dev libedit-dev libcmocka-dev musl-tools
musl-dev
linux-libc-dev python3 python3-pytest python3-pytest-xdist clang clang-format clang-tidy libclang-rt-14-dev groff-base wrk
curl e2fsprogs sudo uidmap skopeo golang-github-containers-common python3-numpy python3-pandas python3-matplotlib"

# A Node of another origin than Debian's has npm in it; Maven, npm and cargo install libraries.
languages="nodejs node-typescript bash gcc g++ libc6-dev golang-go rustc cargo default-jdk-headless ruby perl
php-cli lua5.4 r-base-core sqlite3 python3"
engines="runsc debootstrap openssl podman python3-docker python3-pip sqlite3"
case ${1:-} in
languages)
    packages=$languages
    command -v npm >/dev/null 2>&1 || packages="$packages npm"
    command -v mvn >/dev/null 2>&1 || packages="$packages maven"
    ;;
engines)
    packages=$engines
    # Docker's own packages and Debian's can't be installed beside each other.
    command -v dockerd >/dev/null 2>&1 || packages="$packages docker.io containerd runc"
    ;;
esac

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        echo "deps: root is needed for: $*" >&2
        exit 1
    fi
}

missing=""
for package in $packages; do
    state=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
    [ "$state" = "install ok installed" ] || missing="$missing $package"
done

if [ -n "$missing" ]; then
    echo "deps: installing$missing"
    as_root apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
fi

for user in "${BERTH_USER:-berth}" "${BERTH_EGRESS_USER:-berth-egress}"; do
    if ! getent passwd "$user" >/dev/null; then
        echo "deps: making the system user $user"
        as_root useradd --system --user-group --no-create-home --home-dir /nonexistent \
            --shell /usr/sbin/nologin "$user"
    fi
done
