#!/bin/bash
# run.sh BUILD - refrain inside a real Slurm of three nodes, which are namespaces of this machine (tests/hosts): jobs
# for a coordinator outside of the allocation, a second one whose ranks join the first one's, ranks killed, stopped and
# lost with their node, scancel; then a whole service in an allocation. Slurm, its keys and its state live in a directory
# that goes at the end.
#
# As root, with Slurm installed (`make test-slurm`). Exit 77 with a line where that is not so. REFRAIN_SLURM_KEEP=1 keeps
# the directory.
set -u
build=$(realpath "${1:-build}")
cd "$(dirname "$0")/../.." || exit 1
. tests/hosts/hosts.sh
for tool in slurmctld slurmd munged sbatch; do
    PATH=$PATH:/usr/sbin command -v $tool >/dev/null || hosts_unable "there is no $tool"
done
PATH=$build:$PATH:/usr/sbin
work=$(mktemp -d "${TMPDIR:-/tmp}/refrain-slurm.XXXXXX")
finish() {
    local code=$?
    [ -n "${munged:-}" ] && kill "$munged"
    hosts_down
    [ $code -eq 0 ] || [ $code -eq 77 ] || tail -n 30 "$work"/*.log
    [ -n "${REFRAIN_SLURM_KEEP:-}" ] || rm -rf "$work"
    exit $code
}
trap finish EXIT

. tests/hosts/service.sh
hosts_up "$work" head n1 n2 n3

# -------------------------------------------------------------------------------------------------------------- Slurm
export SLURM_CONF=$work/slurm.conf OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
mkdir -p -m 755 "$work/munge" "$work/state"
(umask 077; head -c 1024 /dev/urandom >"$work/munge/key")
chmod 755 "$work"
munged --force --foreground --socket="$work/munge/socket" --key-file="$work/munge/key" --pid-file="$work/munge/pid" \
    --log-file="$work/munge.log" --seed-file="$work/munge/seed" >/dev/null 2>&1 &
munged=$!
cat >"$SLURM_CONF" <<CONF
ClusterName=refrain
SlurmctldHost=head(10.77.0.1)
AuthType=auth/munge
AuthInfo=socket=$work/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$work/state
SlurmdSpoolDir=$work/spool.%n
SlurmctldPidFile=$work/slurmctld.pid
SlurmdPidFile=$work/slurmd.%n.pid
SlurmctldLogFile=$work/slurmctld.log
SlurmdLogFile=$work/slurmd.%n.log
TmpFS=$HOST_TMP
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SlurmdTimeout=10
MessageTimeout=5
KillWait=3
ReturnToService=2
NodeName=n1 NodeAddr=10.77.0.2 CPUs=2 State=UNKNOWN
NodeName=n2 NodeAddr=10.77.0.3 CPUs=2 State=UNKNOWN
NodeName=n3 NodeAddr=10.77.0.4 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=n[1-3] Default=YES MaxTime=INFINITE State=UP
CONF
await 5 "munge did not start" [ -S "$work/munge/socket" ]
hosts_run head slurmctld -D >/dev/null 2>&1 &
for node in n1 n2 n3; do hosts_run $node slurmd -D -N $node >/dev/null 2>&1 & done
idle() { [ "$(hosts_run head sinfo -h -o %D -t idle 2>/dev/null)" = "${1:-3}" ]; }
await 30 "Slurm's nodes are not ready" idle
[ "$(hosts_run head srun -N3 -n3 hostname | sort | tr '\n' ' ')" = "n1 n2 n3 " ] || fail "srun"
say "Slurm $(slurmctld -V | cut -d' ' -f2), three nodes"

# -------------------------------------------------------------------------------- ranks for a coordinator outside of it
make_keys
start_coordinator
export REFRAIN_WORKER_ENDPOINT=tcp://10.77.0.1:5732 REFRAIN_WORKER_KEY=$work/keys/nodes.secret
batch() { hosts_run head sbatch --parsable --output="$work/batch-%j.log" "$@"; }
gone() { ! hosts_run head squeue -h -o %i | grep -q .; }

# A second job brings its nodes to the ranks of the first one, and takes them away at its time limit.
job=$(batch --nodes=1 examples/slurm/ranks.sbatch --threads 1 --scratch "$HOST_TMP" -- --fabric-bind 'tcp://*:*') || fail "sbatch"
await 40 "no rank came from the allocation" ready "n1 "
group=$(refrain ranks --json | sed 's/.*"group":"\([0-9a-f]\{8\}\).*/\1/')
more=$(batch --nodes=2 examples/slurm/ranks.sbatch --join "$group" --threads 1 --scratch "$HOST_TMP") || fail "sbatch --join"
await 40 "no ranks joined from a second allocation" ready "n1 n2 n3 "
hosts_run head scancel --batch --signal=TERM "$more"
await 40 "joined ranks stay" ready "n1 "
hosts_run head scancel "$job"
await 40 "the allocation stays" gone
await 30 "the nodes are not free again" idle
say "ranks of a second allocation joined and left"

job=$(batch --nodes=3 examples/slurm/ranks.sbatch --threads 1 --scratch "$HOST_TMP") || fail "sbatch"

await 40 "no ranks came from the allocation" ready "n1 n2 n3 "
say "three ranks on three nodes, started by sbatch"

refrain models add ref "$PWD/models/reference" >/dev/null || fail "the model cannot be added"
submit undisturbed
say "a video"

for node in n2 n1; do # n1: where refrain-launch and mpirun are
    disturbed "killed-$node"
    hosts_run $node pkill -KILL -x refrain-worker
    completed "killed-$node"
    ready "n1 n2 n3 " || fail "$node: not replaced on its own node, but $(hosts_of_ranks)"
    say "a rank on $node was killed and replaced there; the job completed with the same latents"
done

disturbed stopped
hosts_run n3 pkill -STOP -x refrain-worker
completed stopped
ready "n1 n2 n3 " || fail "stopped: not replaced on its own node, but $(hosts_of_ranks)"
hosts_run n3 pkill -CONT -x refrain-worker
await 20 "stopped: the older process stays" holds n3 1
say "a stopped rank was replaced, and sent away when it woke"

disturbed dead
hosts_fail n3
completed dead
await 60 "dead: no whole group" ready "n1 n2 n1 "
submit after
same after
say "a node died; its rank came up on the launcher's"

hosts_run head scancel "$job"
for node in n1 n2; do await 20 "ranks stay on $node after scancel" holds $node 0; done
await 40 "the allocation stays" gone
say "scancel: nothing is left"

# --------------------------------------------------------------------------------------- a whole service in an allocation
export REFRAIN_KEYS=$work/keys REFRAIN_CLIENT_PORT=6731 REFRAIN_WORKER_PORT=6732 REFRAIN_DATA=$work/data2
unset REFRAIN_WORKER_ENDPOINT
await 30 "the nodes are not free again" idle 2
batch --nodes=2 examples/slurm/service.sbatch --threads 1 --scratch "$HOST_TMP" >"$work/job" || fail "sbatch"
REFRAIN_COORDINATOR=tcp://10.77.0.2:6731
await 40 "no service came up" ready "n1 n2 "
refrain models add ref "$PWD/models/reference" >/dev/null || fail "the model cannot be added"
submit inside
same inside
hosts_run head scancel --batch --signal=TERM "$(cat "$work/job")"
for node in n1 n2; do await 20 "ranks stay on $node" holds $node 0; done
await 40 "the allocation stays" gone
say "a service of its own in an allocation, ended by the signal that announces the time limit"
