# hosts.sh - several hosts on one machine: sourced by bash scripts that run as root.
#
#     . tests/hosts/hosts.sh
#     hosts_up "$work" head n1 n2 n3          10.77.0.1, 10.77.0.2, ... ; stops with 77 where it may not
#     hosts_run n2 command ...                as if typed there
#     hosts_down                              ends everything that runs on them
#
# A host is a set of namespaces: network (one cable to a common switch), host name, processes, mounts (/etc/hosts,
# /dev/shm and $HOST_TMP of its own). Files are shared otherwise, as on a cluster. There is no ssh: $work/agent is what
# mpirun uses in its place (OMPI_MCA_plm_rsh_agent), through a porter that runs on each host and takes commands from a
# pipe. Like ssh it fails when the host is not there.

hosts_unable() { echo "skipped: $1"; exit 77; }

# hosts_up WORK NAME...
hosts_up() {
    work=$1; shift
    [ "$(id -u)" = 0 ] || hosts_unable "namespaces need root"
    local tool i=0 name
    for tool in ip ss unshare nsenter ps pkill; do command -v $tool >/dev/null || hosts_unable "there is no $tool"; done
    bridge=rf$$
    ip link add "$bridge" type bridge 2>/dev/null || hosts_unable "no bridge can be made here"
    ip link set "$bridge" up
    HOST_TMP=$work/tmp
    mkdir -p "$work/hosts" "$HOST_TMP"
    echo "127.0.0.1 localhost" >"$work/etc-hosts"
    for name in "$@"; do i=$((i + 1)); echo "10.77.0.$i $name" >>"$work/etc-hosts"; done
    hosts_agent
    i=0
    for name in "$@"; do i=$((i + 1)); host_up "$name" $i; done
}

# One host: its first process holds the namespaces, and all others of the host die with it.
host_up() {
    local name=$1 number=$2 room=$work/hosts/$1
    mkdir -p "$room"
    mkfifo "$room/commands"
    unshare --net --uts --ipc --mount --pid --fork --mount-proc --kill-child \
        "$BASH" "$work/porter" "$name" >>"$work/$name.log" 2>&1 &
    local parent=$! pid=
    for _ in $(seq 200); do
        pid=$(ps -o pid= --ppid $parent | tr -d ' ')
        [ -n "$pid" ] && [ -e "$room/ready" ] && break
        sleep 0.02
    done
    [ -e "$room/ready" ] || hosts_unable "no namespaces can be made here"
    echo "$pid" >"$room/pid"
    ip link add "rf$$-$number" type veth peer name eth0 netns "$pid"
    ip link set "rf$$-$number" master "$bridge" up
    echo "rf$$-$number" >"$room/cable"
    hosts_run "$name" ip addr add "10.77.0.$number/24" dev eth0
    hosts_run "$name" ip link set eth0 up
    hosts_run "$name" ip link set lo up
}

hosts_agent() {
    cat >"$work/porter" <<PORTER
# The first process of a host: makes it one, then runs what comes through the pipe.
hostname "\$1"
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs "$HOST_TMP"
mount --bind "$work/etc-hosts" /etc/hosts
export TMPDIR="$HOST_TMP"
room=$work/hosts/\$1
touch "\$room/ready"
exec 3<>"\$room/commands"
trap : CHLD # children are reaped
while :; do
    if read -r ticket <&3; then
        (bash -c "\$(cat "\$ticket/command")" </dev/null; echo \$? >"\$ticket/code") &
    fi
done
PORTER
    # As ssh: HOST COMMAND...; 255 when the host is not there.
    cat >"$work/agent" <<AGENT
#!/bin/bash
room=$work/hosts/\$1; shift
[ -p "\$room/commands" ] && [ ! -e "\$room/down" ] || { echo "agent: no such host, or it is down" >&2; exit 255; }
ticket=\$(mktemp -d "$work/hosts/ticket.XXXXXX")
echo "\$*" >"\$ticket/command"
echo "\$ticket" >"\$room/commands"
until [ -s "\$ticket/code" ]; do [ ! -e "\$room/down" ] || exit 255; sleep 0.02; done
code=\$(cat "\$ticket/code")
rm -r "\$ticket"
exit \$code
AGENT
    chmod +x "$work/agent"
}

# hosts_run NAME COMMAND...: in this directory, with this environment and its own temporary directory.
hosts_run() {
    local pid; pid=$(cat "$work/hosts/$1/pid"); shift
    TMPDIR=$HOST_TMP nsenter --target "$pid" --net --uts --ipc --mount --pid --wd="$PWD" -- "$@"
}

# What runs there, one command line per line.
hosts_processes() { hosts_run "$1" ps -eo args=; }

hosts_unplug() { ip link set "$(cat "$work/hosts/$1/cable")" down; }
hosts_plug() { ip link set "$(cat "$work/hosts/$1/cable")" up; }

# The host loses power.
hosts_fail() {
    touch "$work/hosts/$1/down"
    kill -KILL "$(cat "$work/hosts/$1/pid")"
}

hosts_down() {
    local room
    for room in "$work"/hosts/*/; do
        [ -s "$room/pid" ] && kill -KILL "$(cat "$room/pid")" 2>/dev/null
    done
    ip link del "$bridge" 2>/dev/null
    wait 2>/dev/null
}
