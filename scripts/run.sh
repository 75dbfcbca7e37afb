#!/bin/sh
# Starts a server on 127.0.0.1, runs hello through it, and serves until Ctrl-C. As root, by sudo if
# need be: the engine makes namespaces, mounts and cgroups.
set -eu

build=${BUILD:-build}
port=${PORT:-8000}
scratch=$(mktemp -d)
server=""

finish() {
    trap - EXIT INT TERM
    [ -z "$server" ] || kill -TERM "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT
trap 'finish; exit 0' INT TERM

sudo=""
[ "$(id -u)" -eq 0 ] || sudo="sudo -E"
$sudo "$build/berth" serve --host 127.0.0.1 --port "$port" >"$scratch/ready" &
server=$!

tries=0
until grep -q '^ready ' "$scratch/ready"; do
    kill -0 "$server" 2>/dev/null || { wait "$server" || exit 1; exit 1; }
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || { echo "run: the server did not get ready in 30 s" >&2; exit 1; }
    sleep 0.05
done
url=$(sed -n 's/^ready //p' "$scratch/ready")

hello='print("Hello from a sandbox")'
printf '{"lang": "python", "code": "print(\\"Hello from a sandbox\\")"}' >"$scratch/request"
seconds=$(curl -sS -o "$scratch/answer" -w '%{http_code} %{time_total}' \
    -H 'Content-Type: application/json' --data-binary "@$scratch/request" "$url/execute")
status=${seconds%% *}
seconds=${seconds#* }

echo
echo "POST $url/execute  ->  HTTP $status in $seconds s"
cat "$scratch/answer"
echo
echo
echo "berth run -c '$hello'"
BERTH_URL=$url "$build/berth" run -c "$hello" </dev/null || true
echo
echo "Serving at $url until Ctrl-C."
wait "$server"
