#!/bin/bash
# soak.sh BIN MODEL [MINUTES] [KILLS] - a service of two ranks works for an hour on mixed jobs; prints every minute how many
# are done and what the processes hold. Memory is flat if the last lines look like the first.
# KILLS: seconds between kills of a random rank; 0: none (the replacements' memory starts anew, the others' must not grow).
set -u
bin=$(realpath "$1") model=$(realpath "$2") minutes=${3:-60} kills=${4:-0}
dir=$(mktemp -d /tmp/refrain-soak-XXXXXX)
export PATH=$bin:$PATH TMPDIR=$dir REFRAIN_COORDINATOR=ipc://$dir/clients OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
refrain-coordinator --data "$dir/data" --launch 2 --threads 1 --endpoint "$REFRAIN_COORDINATOR" \
  --worker-endpoint "ipc://$dir/workers" --endpoint-file "$dir/ready" 2>"$dir/log" &
coordinator=$!
trap 'kill $coordinator; wait $coordinator; rm -rf "$dir"' EXIT
until [ -e "$dir/ready" ]; do sleep 0.1; done
refrain models add ref "$model" >/dev/null
policies=(off balanced fast "fbcache:threshold=0.2" "interval:N=3,forecast=taylor" layers zeus specache)
sizes=("32 9" "64 17" "32 17" "64 9")

resident() { awk '/VmRSS/ {printf "%.1f", $2 / 1024}' "/proc/$1/status" 2>/dev/null || echo -; }
of() { for pid in $(pgrep -f "^[^ ]*$1.*$dir" | sort -n); do printf ' %s MB/%s fds' "$(resident "$pid")" "$(ls "/proc/$pid/fd" 2>/dev/null | wc -l)"; done; }

made=0 end=$((SECONDS + 60 * minutes)) tell=$((SECONDS + 60)) strike=$((SECONDS + kills))
while [ $SECONDS -lt $end ]; do
    waiting=$(refrain list --active --json | grep -c '"state"')
    while [ "$waiting" -lt 3 ]; do
        read -r side frames <<<"${sizes[RANDOM % ${#sizes[@]}]}"
        refrain submit --prompt "job $made" --seed $made --width "$side" --height "$side" --frames "$frames" \
          --steps $((10 + RANDOM % 20)) --cache "${policies[RANDOM % ${#policies[@]}]}" >/dev/null && made=$((made + 1))
        waiting=$((waiting + 1))
    done
    if [ "$kills" -gt 0 ] && [ $SECONDS -ge $strike ]; then
        kill -9 "$(pgrep -f "refrain-worker.*$dir" | shuf -n 1)" 2>/dev/null
        strike=$((SECONDS + kills))
    fi
    if [ $SECONDS -ge $tell ]; then
        printf '%3d min, %5d jobs; coordinator%s; launcher%s; ranks%s\n' $(((SECONDS - end) / 60 + minutes)) $made \
          "$(of refrain-coordinator)" "$(of 'refrain-launch --ranks')" "$(of 'refrain-worker --coordinator')"
        tell=$((tell + 60))
    fi
    sleep "${SOAK_PAUSE:-0.2}"
done
refrain stats
