#!/bin/bash
# run.sh BUILD - a service over three hosts and a head node, made of network namespaces (hosts.sh): keys, a hostfile,
# mpirun's remote start without ssh, tensors over the cables; ranks of a second launcher join and leave; then a rank is killed, one is stopped, a host dies, and
# the launcher is killed. Every job must complete with the latents of the undisturbed one, and nothing may stay behind.
#
# Exit 77 with a line when this machine does not allow namespaces. REFRAIN_HOSTS_KEEP=1 keeps the directory.
set -u
build=$(realpath "${1:-build}")
cd "$(dirname "$0")/../.." || exit 1
. tests/hosts/hosts.sh
work=$(mktemp -d "${TMPDIR:-/tmp}/refrain-hosts.XXXXXX")
finish() {
    local code=$?
    hosts_down
    [ $code -eq 0 ] || [ $code -eq 77 ] || tail -n 25 "$work"/*.log
    [ -n "${REFRAIN_HOSTS_KEEP:-}" ] || rm -rf "$work"
    exit $code
}
trap finish EXIT

. tests/hosts/service.sh
hosts_up "$work" head n1 n2 n3
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_plm_rsh_agent=$work/agent
make_keys
start_coordinator
for host in n1 n2 n3; do echo "$host slots=1"; done >"$work/hostfile"
start_launcher() {
    hosts_run n1 "$build/refrain-launch" --ranks 3 --hostfile "$work/hostfile" --threads 1 --key "$work/keys/nodes.secret" \
        --coordinator tcp://10.77.0.1:5732 2>>"$work/launch.log" &
}
start_launcher

await 20 "no group of three hosts" ready "n1 n2 n3 "
say "three ranks on three hosts, by mpirun with a hostfile and keys"

refrain models add ref "$PWD/models/reference" >/dev/null || fail "the model cannot be added"
submit undisturbed
# Each host holds connections to both others (and to the coordinator), and none of its tensors takes the loopback.
for pair in n1:10.77.0.3 n2:10.77.0.4 n3:10.77.0.2; do
    hosts_run ${pair%:*} ss -Htn state established | grep -q " ${pair#*:}:" || fail "no connection from $pair"
done
[ -s "$work/undisturbed.mp4" ] || fail "no video"
say "a video over the cables"

# A second launcher, elsewhere, brings two more to the job that runs, and takes them away again.
printf 'n3 slots=1\nn2 slots=1\n' >"$work/more"
group=$(refrain ranks --json | sed 's/.*"group":"\([0-9a-f]\{8\}\).*/\1/')
disturbed joined
hosts_run n3 "$build/refrain-launch" --join "$group" --ranks 2 --hostfile "$work/more" --threads 1 --key "$work/keys/nodes.secret" \
    --coordinator tcp://10.77.0.1:5732 2>>"$work/launch.log" &
joiner=$!
await 20 "joined: not five ranks" ready "n1 n2 n3 n3 n2 "
hosts_run n3 pkill -TERM -x refrain-launch
wait $joiner || fail "joined: the launcher failed"
completed joined
await 5 "joined: its ranks stay" holds n3 1
ready "n1 n2 n3 " || fail "joined: $(hosts_of_ranks)"
say "two ranks of a second launcher joined a running job and left it; it completed with the same latents"

# ------------------------------------------------------------------------------------------------------------- mishaps
disturbed killed
hosts_run n2 pkill -KILL -x refrain-worker
completed killed
ready "n1 n2 n3 " || fail "killed: not replaced on its own host"
say "a killed rank was replaced on its host; the job completed with the same latents"

disturbed stopped
hosts_run n3 pkill -STOP -x refrain-worker
completed stopped
ready "n1 n2 n3 " || fail "stopped: not replaced on its own host"
hosts_run n3 pkill -CONT -x refrain-worker
await 20 "stopped: the older process stays" holds n3 1
submit woken
same woken
say "a stopped rank was replaced; when it woke it was sent away"

disturbed dead
hosts_fail n3
completed dead
ready "n1 n2 n1 " || fail "dead: not replaced on the launcher's host, but $(hosts_of_ranks)"
say "a host died; its rank came up on the launcher's"

hosts_run n1 pkill -KILL -x refrain-launch
await 5 "ranks outlive their launcher on its host" holds n1 0
await 10 "ranks outlive their launcher on another host" holds n2 0
await 5 "orted stays" eval '! hosts_processes n2 | grep -q orted'
say "the launcher was killed; no rank stays, here or elsewhere"

printf 'n1 slots=1\nn2 slots=2\n' >"$work/hostfile"
start_launcher
await 20 "no second group" ready "n1 n2 n2 "
submit again
same again
hosts_run n1 pkill -TERM -x refrain-launch
await 10 "ranks stay after SIGTERM" holds n1 0
await 10 "ranks stay after SIGTERM" holds n2 0
wait %+ 2>/dev/null
[ -z "$(hosts_run n1 sh -c 'ls -d $TMPDIR/refrain-launch-* /dev/shm/vader* 2>/dev/null')" ] || fail "files stay on n1"
[ -z "$(hosts_run n2 sh -c 'ls -d /dev/shm/vader* 2>/dev/null')" ] || fail "segments stay on n2"
say "a launcher of the same hosts, ended by SIGTERM; nothing is left"
