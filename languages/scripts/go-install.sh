# Installs modules: all packages of each, with what they need, into a cache of modules beside a go.mod that
# requires them. A requirement is path@version.
set -eu
cd /opt/libraries
export GO111MODULE=on GOMODCACHE=/opt/libraries/mod GOFLAGS=-modcacherw GOPROXY="${GOPROXY:-https://proxy.golang.org}"
go mod init libraries.invalid 2>/dev/null
go get "$@"
# Each module's other packages may need more modules; one that can't be compiled is no reason to fail.
for text; do
    go list -e -mod=mod -deps "${text%%@*}/..." >/dev/null
done
go list -m all | sed 1d >installed
# What was unpacked needs its archive no more.
find mod/cache/download -name '*.zip' -delete
