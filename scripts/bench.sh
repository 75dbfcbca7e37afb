#!/bin/sh
# Starts a private server, measures it beside its baselines in alternating rounds, stops it. Prints
# tables; figures never fail it, failed requests do. See bench/README.md.
#   bench.sh           latency and throughput
#   bench.sh memory    what idle sessions take
set -eu

mode=${1:-speed}
build=${BUILD:-build}
rounds=${ROUNDS:-4}       # of latency: each measures every kind once
count=${COUNT:-60}        # samples of one kind in one round
load_rounds=${LOAD_ROUNDS:-3}
load_count=${LOAD_COUNT:-240}
sessions=${SESSIONS:-10,100,500} # how many are idle when memory is looked at
here=$(dirname "$0")
client=$build/bench/bench-client
floor=$build/bench/bench-floor

[ "$(id -u)" -eq 0 ] || { echo "bench: needs root: the engine makes namespaces and cgroups" >&2; exit 1; }
[ -x "$client" ] || { echo "bench: $client is not built" >&2; exit 1; }
scratch=$(mktemp -d)
server=""
finish() {
    trap - EXIT INT TERM
    [ -z "$server" ] || kill -TERM "$server" 2>/dev/null || true
    [ -z "$server" ] || wait "$server" 2>/dev/null || true
    rm -rf "$scratch"
}
trap finish EXIT
trap 'finish; exit 1' INT TERM

: >"$scratch/ready"
chmod 755 "$scratch" # the server's user goes through it
"$build/berth" serve --host 127.0.0.1 --port 0 --state "$scratch/state" >"$scratch/ready" 2>"$scratch/log" &
server=$!
tries=0
until grep -q '^ready ' "$scratch/ready"; do
    kill -0 "$server" 2>/dev/null || { cat "$scratch/log" >&2; exit 1; }
    tries=$((tries + 1))
    [ "$tries" -lt 600 ] || { echo "bench: the server did not get ready in 30 s" >&2; exit 1; }
    sleep 0.05
done
url=$(sed -n 's/^ready //p' "$scratch/ready")

load() { cut -d' ' -f1-3 /proc/loadavg; }
echo "$(nproc) cores, Linux $(uname -r), $(/usr/bin/python3 --version), load before $(load)"
if [ "$mode" = memory ]; then
    /usr/bin/python3 -B "$here/../bench/memory.py" --url "$url" --client "$client" \
        --monitor "$server" --counts "$sessions"
    echo "load after $(load)"
    exit 0
fi

out=$scratch/samples
mkdir "$out"
# measure NAME ARGS: the client, with all that the table wants to know under that name.
measure() {
    name=$1
    shift
    "$client" --url "$url" --settle
    "$client" --url "$url" --samples "$out/$name" --rate "$out/rate-$name" --pool "$out/pool-$name" \
        --stages "$@" >>"$out/stages-$name"
}
# One of each before anything counts: page cache, branch caches, the server's first connection.
"$floor" --program python --count 20 >/dev/null
"$client" --url "$url" --requests 20 >/dev/null
"$client" --url "$url" --session --requests 200 >/dev/null
round=0
while [ "$round" -lt "$rounds" ]; do
    "$floor" --program python --count "$count" --samples "$out/bare-python" >/dev/null
    measure fresh-paced --requests "$count" --pace 50
    "$floor" --box --program python --count "$count" --samples "$out/box-python" >/dev/null
    measure fresh-1 --requests "$count"
    "$floor" --box --program true --count "$count" --samples "$out/box-true" >/dev/null
    measure session-1 --session --requests $((count * 10)) --warm 50
    round=$((round + 1))
done
round=0
while [ "$round" -lt "$load_rounds" ]; do
    for threads in 1 2; do
        "$floor" --program python --threads "$threads" --count "$load_count" \
            --rate "$out/rate-bare-$threads" >/dev/null
        "$floor" --box --program python --threads "$threads" --count "$load_count" \
            --rate "$out/rate-box-$threads" >/dev/null
    done
    for clients in 2 8 32; do
        measure "fresh-$clients" --clients "$clients" --requests "$load_count"
    done
    measure session-64 --session --clients 64 --requests $((load_count * 10)) --warm 3
    measure create-100 --create-sessions 100 --clients 100 --elapsed "$out/elapsed-create-100"
    round=$((round + 1))
done
/usr/bin/python3 -B "$here/../bench/report.py" "$out"
/usr/bin/python3 -B "$here/../bench/libraries.py" --build "$build"
echo "load after $(load)"
