#!/bin/bash
# run.sh BUILD - builds both examples and runs them against a real coordinator with two ranks, as examples/README.md
# tells it; exit 1 unless each fetched a video that is one. Everything is stopped afterwards.
set -eu
build=$1
out=$(mktemp -d)
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
endpoint=ipc://$out/client
coordinator=
stop() {
    if [ -n "$coordinator" ]; then
        kill "$coordinator" 2>/dev/null && wait "$coordinator" || true
    fi
    rm -rf "$out"
}
trap stop EXIT

mkdir -p "$build/examples"
protoc --proto_path=proto --python_out="$build/examples" proto/refrain.proto
make --no-print-directory "$build/examples/submit" >"$out/build.log" 2>&1 || { cat "$out/build.log"; exit 1; }

"$build/refrain-coordinator" --data "$out/data" --launch 2 --endpoint "$endpoint" --worker-endpoint "ipc://$out/worker" \
    --endpoint-file "$out/ready" 2>"$out/log" &
coordinator=$!
for _ in $(seq 200); do [ -e "$out/ready" ] && break; sleep 0.05; done
"$build/refrain" models add reference models/reference --coordinator "$endpoint"

passed=0 failed=0
check() { # NAME COMMAND...
    local name=$1
    shift
    if timeout 120 "$@" >"$out/$name.log" 2>&1 && [ "$(head -c 8 "$out/$name.mp4" | tail -c 4)" = ftyp ]; then
        passed=$((passed + 1))
        echo "ok      examples/$name"
    else
        failed=$((failed + 1))
        echo "FAILED  examples/$name"
        cat "$out/$name.log"
        tail -n 20 "$out/log"
    fi
}
prompt="a green square moving right on a white background"
check submit.c "$build/examples/submit" "$endpoint" reference "$prompt" "$out/submit.c.mp4"
check submit.py env PYTHONPATH="$build/examples" /usr/bin/python3 examples/submit.py "$endpoint" reference "$prompt" \
    "$out/submit.py.mp4"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
