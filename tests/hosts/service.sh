# service.sh - what tests of a service on several hosts share: sourced after hosts.sh, with $build and $work set.

began=$EPOCHREALTIME
fail() { echo "FAILED: $1"; exit 1; }
say() { printf '%5.1f s  %s\n' "$(awk "BEGIN{print $EPOCHREALTIME - $began}")" "$1"; }
# await SECONDS WHAT COMMAND...
await() {
    local end=$((SECONDS + $1)) what=$2; shift 2
    until "$@"; do [ $SECONDS -le $end ] || fail "$what"; sleep 0.05; done
}
refrain() { hosts_run head "$build/refrain" "$@"; }

# $work/keys/ann.secret for a person, nodes.secret for ranks
make_keys() {
    mkdir -m 700 "$work/keys"
    local key
    for key in ann:admin nodes:worker; do
        "$build/refrain-coordinator" --keys "$work/keys" --make-key ${key%:*} --role ${key#*:} >/dev/null ||
            fail "no key can be made"
    done
    export REFRAIN_KEY=$work/keys/ann.secret
}
# On head, for all hosts, with short patience.
start_coordinator() {
    hosts_run head "$build/refrain-coordinator" --data "$work/data" --keys "$work/keys" --endpoint 'tcp://*:5731' \
        --worker-endpoint 'tcp://*:5732' --endpoint-file "$work/ready" --heartbeat 200ms --silence 1500ms \
        2>"$work/coordinator.log" &
    await 10 "the coordinator did not start" [ -e "$work/ready" ]
    export REFRAIN_COORDINATOR=tcp://10.77.0.1:5731
}

# The hosts of the ranks that are here, by rank: "n1 n2 n3 "
hosts_of_ranks() {
    refrain stats --json 2>/dev/null | sed 's/"groups".*//' | grep -o '"rank":[0-9]*,"state":"here","host":"[^"]*"' |
        sort -t: -k2n | sed 's/.*"host":"//; s/"//' | tr '\n' ' '
}
ready() {
    refrain stats --json 2>/dev/null | grep -q '"group_state":"\(ready\|running\)"' && [ "$(hosts_of_ranks)" = "$1" ]
}
# Processes of ranks, running or stopped.
workers() { hosts_processes "$1" | grep -c "^[^ ]*refrain-worker .*--group"; }
holds() { [ "$(workers "$1")" = "$2" ]; }

# Always the same video, made anew; its latents in $work/NAME.safetensors.
submit() {
    refrain submit --recompute --model ref --steps 40 --width 64 --height 64 --frames 17 --seed 5 --quiet --prompt "a red star" \
        --save-latents "$work/$1.safetensors" --output "$work/$1.mp4" >/dev/null || fail "$1: the job failed"
}
same() { cmp -s "$work/undisturbed.safetensors" "$work/$1.safetensors" || fail "$1: other latents than undisturbed"; }
denoising() { refrain list --json | grep -q '"phase":"denoise"'; }
# disturbed NAME: a job; back once it is being computed. completed NAME: it ended well all the same.
disturbed() {
    submit "$1" &
    submitted=$!
    await 20 "$1: does not start" denoising
}
completed() { wait $submitted || fail "$1: the job failed"; same "$1"; }
