#!/bin/sh
# The checks that need no running program: a build with warnings as errors, include arrows, headers
# that compile alone, the format, banned calls, clang-tidy. Says every fault, then fails.
set -u
failed=0
fail() {
    echo "check: $*" >&2
    failed=1
}
build=build-check

echo "check: build with warnings as errors"
[ -f "$build/build.ninja" ] || meson setup "$build" -Dwerror=true >/dev/null || exit 1
ninja -C "$build" >"$build/check.log" 2>&1 || { cat "$build/check.log"; fail "the build has warnings or errors"; }

echo "check: includes"
/usr/bin/python3 -B scripts/check_includes.py || fail "an include points the wrong way"

echo "check: headers compile alone"
flags=$(pkg-config --cflags libmicrohttpd jansson sqlite3 libseccomp libcurl)
for header in $(find src -name '*.h' | sort); do
    # shellcheck disable=SC2086 # a list of words
    gcc -std=gnu17 -D_GNU_SOURCE -DBERTH_VERSION='""' -Wall -Wextra -Werror -fsyntax-only -Isrc \
        $flags -x c -include "$header" /dev/null || fail "$header does not compile alone"
done

echo "check: format"
find src tests -name '*.[ch]' -print0 | xargs -0 clang-format --dry-run -Werror ||
    fail "run clang-format -i on the files above"

echo "check: banned calls"
banned='(^|[^[:alnum:]_.>])(strcpy|strcat|sprintf|vsprintf|strtok|atoi|atol|alloca|system|popen|gets)[[:space:]]*\('
# Comments may name them.
if grep -rnE "$banned" src tests --include='*.[ch]' | grep -vE ':[0-9]+:[[:space:]]*(/?\*|//)'; then
    fail "a banned call"
fi

echo "check: the table of attacks"
/usr/bin/python3 -B scripts/attack_table.py --check || fail "run the security suite, then scripts/attack_table.py"

echo "check: clang-tidy"
files=$(/usr/bin/python3 -B scripts/tidy_files.py "$build/compile_commands.json")
# The compile commands are gcc's; clang 14 wants to be asked twice for one of their options.
zero_init=-enable-trivial-auto-var-init-zero-knowing-it-will-be-removed-from-clang
# shellcheck disable=SC2086 # a list of words
echo $files | tr ' ' '\n' |
    xargs -r -P "$(nproc)" -n 4 clang-tidy -p "$build" --quiet --extra-arg=$zero_init \
        --extra-arg=-Wno-unknown-warning-option >"$build/tidy.log" 2>&1 ||
    { grep -vE 'warnings? generated|^Suppressed' "$build/tidy.log"; fail "clang-tidy"; }

[ "$failed" -eq 0 ] && echo "check: all well"
exit "$failed"
