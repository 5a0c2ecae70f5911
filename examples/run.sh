#!/bin/bash
# run.sh BUILD - builds the examples and runs them against a real coordinator with two ranks, as examples/README.md
# tells it; exit 1 unless each fetched videos that are some. Everything is stopped afterwards.
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
videos() { # NAME...: every one begins as an MP4 does
    local name
    for name; do [ "$(head -c 8 "$out/$name.mp4" | tail -c 4)" = ftyp ] || return 1; done
}
check() { # "NAME [MORE...]", the videos it makes; COMMAND...
    local names=$1 name=${1%% *}
    shift
    if timeout 240 "$@" >"$out/$name.log" 2>&1 && videos $names; then
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
export PYTHONPATH=$build/examples PYTHONDONTWRITEBYTECODE=1
check submit.py /usr/bin/python3 examples/submit.py "$endpoint" reference "$prompt" "$out/submit.py.mp4"
check "variations.py variations.py.guided variations.py.other variations.py.slow" \
    /usr/bin/python3 examples/variations.py "$endpoint" reference "$prompt" "$out/variations.py.mp4"
cmp -s "$out/variations.py.mp4" "$out/variations.py.guided.mp4" && { echo "FAILED  a variation is the same video"; failed=1; }
grep -q "^guided: 5 of 10 steps taken over" "$out/variations.py.log" && grep -q "^slow: 10 of 10 .* took 0.00 s" "$out/variations.py.log" ||
    { echo "FAILED  variations.py took over other steps"; cat "$out/variations.py.log"; failed=1; }
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
