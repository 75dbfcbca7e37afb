#!/bin/sh
# Compiles berth-init: musl_static.sh VERSION SOURCE_DIR BUILD_DIR OUTPUT DEPFILE FILE.c...
# A static PIE; Debian's musl-gcc has no such mode, so the start files are named by hand.
set -eu
version=$1 source=$2 build=$3 output=$4 depfile=$5
shift 5
# gcc's own search would find glibc's start file of the same name first.
libdir=/usr/lib/$(uname -m)-linux-musl
[ -e "$libdir/rcrt1.o" ] || libdir=/usr/lib/musl/lib
machine=$(gcc -dumpmachine)
work=$(mktemp -d "$output.XXXXXX")
trap 'rm -rf "$work"' EXIT
: > "$depfile.new"
for file in "$@"; do
    object=$work/$(echo "$file" | tr '/.' '__').o
    musl-gcc -std=gnu17 -O2 -g -fPIE -ffunction-sections -fdata-sections \
        -Wall -Wextra -Wshadow -Wformat=2 -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wundef \
        -Wvla -Wcast-qual -Wwrite-strings -Wno-sign-conversion -Werror \
        -fstack-protector-strong -fstack-clash-protection -ftrivial-auto-var-init=zero -fvisibility=hidden \
        -idirafter /usr/include -idirafter "/usr/include/$machine" -D_GNU_SOURCE \
        -DBERTH_VERSION="\"$version\"" -I"$source" -I"$build" -MMD -MT "$output" -MF "$work/dep" \
        -c "$file" -o "$object"
    cat "$work/dep" >> "$depfile.new"
done
mv "$depfile.new" "$depfile"
musl-gcc -static -nostartfiles -Wl,-pie,--no-dynamic-linker,-z,relro,-z,now,-z,noexecstack,--gc-sections \
    "$libdir/rcrt1.o" "$libdir/crti.o" "$work"/*.o "$libdir/crtn.o" -o "$output"
