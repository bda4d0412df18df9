#!/usr/bin/env bash
# Runs the example `sessions`, or the command that is given, with a Redis of its own: a socket in a scratch directory and no port,
# nothing kept on disk, and gone when the example has ended.
set -euo pipefail

command -v redis-server >/dev/null || { echo "redis-server is missing: apt-get install redis-server" >&2; exit 1; }
scratch=$(mktemp -d)
socket=$scratch/redis.sock
# In a session of its own, so that Ctrl-C does not end it before the workers have finished.
setsid redis-server --port 0 --unixsocket "$socket" --dir "$scratch" --save "" --appendonly no --loglevel warning &
redis=$!
trap 'kill "$redis" 2>/dev/null; wait "$redis" || true; rm -rf "$scratch"' EXIT

for ((tries = 0; tries < 100; tries++)); do
    [[ -S $socket ]] && break
    kill -0 "$redis" || exit 1
    sleep 0.1
done

if (($# == 0)); then
    cd "$(dirname "$0")/.."
    set -- cargo run --release --example sessions
fi
REDIS_URL=unix://$socket "$@"
