#!/bin/bash
# bench_recovery.sh BIN MODEL [RANKS] [WHAT] - how long a job stands still after each kind of fault, and when a rank is drained: from the
# strike until it is again past the step it had reached, and how many steps were made twice. WHAT: only faults with that in their name.
set -u
bin=$(realpath "$1") model=$(realpath "$2") ranks=${3:-3} only=${4:-}
dir=$(mktemp -d /tmp/refrain-recovery-XXXXXX)
export PATH=$bin:$PATH TMPDIR=$dir REFRAIN_COORDINATOR=ipc://$dir/clients OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
start() {
    rm -f "$dir/ready"
    refrain-coordinator --data "$dir/data" --launch "$ranks" --threads 1 --endpoint "$REFRAIN_COORDINATOR" \
      --worker-endpoint "ipc://$dir/workers" --endpoint-file "$dir/ready" 2>>"$dir/log" &
    coordinator=$!
    until [ -e "$dir/ready" ]; do sleep 0.02; done
}
field() { refrain status "$job" --json 2>/dev/null | grep -o "\"$1\":[0-9]*" | head -1 | cut -d: -f2; }
now() { date +%s%N; }
pids() { pgrep -f "^[^ ]*$1.*$dir" | sort -n; }

trap 'kill $coordinator; wait $coordinator; rm -rf "$dir"' EXIT
start
refrain models add ref "$model" >/dev/null
strike() {
    case $1 in
    "SIGKILL of home") kill -9 "$(pids 'refrain-worker --coordinator' | head -1)" ;;
    "SIGKILL of the last rank") kill -9 "$(pids 'refrain-worker --coordinator' | tail -1)" ;;
    "SIGKILL of two ranks") for p in $(pids 'refrain-worker --coordinator' | head -2); do kill -9 "$p"; done ;;
    "SIGSTOP of a rank") kill -STOP "$(pids 'refrain-worker --coordinator' | tail -1)" ;;
    "SIGKILL of mpirun") kill -9 "$(pids 'mpirun' | head -1)" ;;
    "SIGKILL of refrain-launch") kill -9 "$(pids 'refrain-launch --ranks' | head -1)" ;;
    "refrain drain of the last rank") refrain drain $((ranks - 1)) >/dev/null ;;
    "refrain drain of home") refrain drain 0 >/dev/null ;;
    "SIGKILL of the coordinator") kill -9 $coordinator; wait $coordinator 2>/dev/null; start ;;
    esac
}
printf '%-31s %12s %16s\n' "$ranks ranks" "stands still" "steps made twice"
for fault in "SIGKILL of the last rank" "SIGKILL of home" "SIGKILL of two ranks" "SIGSTOP of a rank" "SIGKILL of mpirun" \
    "SIGKILL of refrain-launch" "SIGKILL of the coordinator" "refrain drain of the last rank" "refrain drain of home"; do
    [[ $fault == *$only* ]] || continue
    job=$(refrain submit --prompt "a red star" --width 64 --height 64 --frames 17 --steps 400 --recompute | grep -o '[0-9]*' | head -1)
    while [ "$(field step)" = "" ] || [ "$(field step)" -lt 40 ]; do sleep 0.1; done
    repeated=$(refrain stats --json | grep -o '"steps_repeated":[0-9]*' | cut -d: -f2)
    at=$(field step) began=$(now)
    strike "$fault" 2>/dev/null
    until step=$(field step) && [ -n "$step" ] && [ "$(refrain status "$job" --json | grep -o '"state":"[a-z]*"' | head -1)" = '"state":"running"' ] \
        && [ "$step" -gt "$at" ] && { [ "$(field attempt)" -gt 1 ] || [ "$fault" = "SIGKILL of the coordinator" ]; }; do sleep 0.01; done
    took=$((($(now) - began) / 1000000))
    twice=$(refrain stats --json | grep -o '"steps_repeated":[0-9]*' | cut -d: -f2)
    printf '%-31s %9d ms %16s\n' "$fault" "$took" "$((${twice:-0} < ${repeated:-0} ? ${twice:-0} : ${twice:-0} - ${repeated:-0}))" # a new coordinator counts anew
    refrain cancel "$job" >/dev/null
    while refrain list --active --json | grep -q '"state"'; do sleep 0.1; done
    case $fault in *drain*) refrain drain "$(hostname)" --back >/dev/null ;; esac
    sleep 2
done
