#!/bin/bash
# cuda_resources.sh PLUGIN - registers, shared memory and stack of every kernel in refrain-cuda.so, per architecture: a
# markdown table for docs/gpu.md. Exit 1 where registers are spilled (a stack is).
# Threads and blocks that fit a multiprocessor are figured from registers alone: 65536, handed out in units of 8 a thread.
set -eu
PATH=$PATH:/usr/local/cuda/bin
cuobjdump --dump-resource-usage "$1" | c++filt | awk '
    /arch = sm_/ { arch = $3 }
    /Function/ { name = $0; sub(/.*Function /, "", name); sub(/:$/, "", name); sub(/^void /, "", name); sub(/\(.*/, "", name)
        gsub(/\(int\)|\(bool\)/, "", name) }
    /REG:/ {
        match($0, /REG:[0-9]+/); registers = substr($0, RSTART + 4, RLENGTH - 4)
        match($0, /STACK:[0-9]+/); stack = substr($0, RSTART + 6, RLENGTH - 6)
        match($0, /SHARED:[0-9]+/); shared = substr($0, RSTART + 7, RLENGTH - 7)
        if (!(name in seen)) { order[++count] = name; seen[name] = 1 }
        if (registers + 0 > most[name] + 0) most[name] = registers
        bytes[name] = shared
        if (stack + 0 > 0) spilled[name] = spilled[name] " " arch ":" stack
    }
    END {
        print "| kernel | registers, most of all architectures | static shared bytes | threads a multiprocessor |"
        print "|---|---|---|---|"
        for (i = 1; i <= count; i++) {
            n = order[i]; unit = int((most[n] + 7) / 8) * 8; threads = int(65536 / unit / 32) * 32
            printf "| `%s` | %d | %d | %d |%s\n", n, most[n], bytes[n], threads > 2048 ? 2048 : threads, \
                ((n in spilled) ? " stack" spilled[n] : "")
            bad = bad || (n in spilled)
        }
        exit bad
    }'
