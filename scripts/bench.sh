#!/bin/sh
# Starts a private server, measures it, stops it. Prints figures; never fails on one.
set -eu

build=${BUILD:-build}
[ "$(id -u)" -eq 0 ] || { echo "bench: needs root" >&2; exit 1; }
scratch=$(mktemp -d)
"$build/berth" serve --host 127.0.0.1 --port 0 --state "$scratch/state" >"$scratch/ready" 2>"$scratch/log" &
server=$!
trap 'kill -TERM $server; wait $server || true; rm -rf "$scratch"' EXIT
until grep -q '^ready ' "$scratch/ready"; do
    kill -0 "$server" 2>/dev/null || { cat "$scratch/log" >&2; exit 1; }
    sleep 0.05
done
url=$(sed -n 's/^ready //p' "$scratch/ready")

cat >"$scratch/execute.lua" <<'LUA'
wrk.method = "POST"
wrk.body = '{"lang": "python", "code": "print(1)"}'
wrk.headers["Content-Type"] = "application/json"
LUA
for connections in 1 2 4 16; do
    echo "POST /execute, Python, $connections at once"
    wrk -t1 -c"$connections" -d5s --timeout 30s --latency -s "$scratch/execute.lua" "$url/execute" |
        grep -E '50%|99%|Requests/sec|Non-2xx|Socket errors' || true
done
echo "GET /health, 16 at once"
wrk -t1 -c16 -d3s --latency "$url/health" | grep -E '50%|99%|Requests/sec|Non-2xx' || true
