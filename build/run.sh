#!/bin/bash
# `make run`: starts vchd on its own socket, runs a first container through the Docker CLI, and prints what to type next.
set -euo pipefail
cd "$(dirname "$0")/.."
state=${VCH_STATE:-${XDG_CACHE_HOME:-$HOME/.cache}/vch/run}
mkdir -p "$state"
socket=$state/docker.sock
export DOCKER_HOST=unix://$socket
if ! docker version >/dev/null 2>&1; then
    setsid .venv/bin/vchd -H "$DOCKER_HOST" --data-root "$state/data" --exec-root "$state/exec" --pidfile "$state/vchd.pid" \
        >"$state/vchd.log" 2>&1 </dev/null &
    for _ in $(seq 300); do
        docker version >/dev/null 2>&1 && break
        sleep 0.1
    done
    docker version >/dev/null 2>&1 || { cat "$state/vchd.log" >&2; exit 1; }
fi
docker image inspect busybox >/dev/null 2>&1 || .venv/bin/python build/busybox.py | docker load
docker run --rm busybox sh -c 'echo "Hello from a virtual machine of your own: $(uname -sr), pid $$"'
cat <<EOF

vchd is running (log: $state/vchd.log). Type next:
  export DOCKER_HOST=$DOCKER_HOST
  docker run -it --rm busybox sh
and to stop it:
  kill \$(cat $state/vchd.pid)
EOF
