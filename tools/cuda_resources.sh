#!/bin/bash
# cuda_resources.sh BUILD - registers, shared memory and spills of every kernel, as ptxas told make CUDA=1 for each
# architecture: a markdown table for docs/gpu.md. Exit 1 where registers are spilled.
# Threads that fit a multiprocessor are figured from registers alone: 65536, handed out in units of 8 a thread.
set -eu
cat "$1"/nvcc/kernels/cuda/*.log | c++filt | awk '
    /Compiling entry function/ {
        name = $0
        sub(/.*function ./, "", name); architecture = name
        sub(/.*for ./, "", architecture); sub(/.$/, "", architecture)
        sub(/. for .sm_.*/, "", name); sub(/^void /, "", name)
        gsub(/\(int\)|\(bool\)/, "", name); sub(/\(.*/, "", name)
        if (!(name in most)) { order[++count] = name; most[name] = 0 }
    }
    /bytes spill stores/ && $0 !~ / 0 bytes spill stores/ { spilled[name] = spilled[name] " " architecture }
    /Used [0-9]+ registers/ {
        registers = $0; sub(/.*Used /, "", registers); registers += 0
        shared = 0
        if (match($0, /[0-9]+ bytes smem/)) shared = substr($0, RSTART, RLENGTH) + 0
        if (registers > most[name]) most[name] = registers
        if (shared > bytes[name] + 0) bytes[name] = shared
    }
    END {
        print "| kernel | registers | static shared bytes | threads a multiprocessor | spills |"
        print "|---|---|---|---|---|"
        for (i = 1; i <= count; i++) {
            n = order[i]
            unit = int((most[n] + 7) / 8) * 8
            threads = int(65536 / unit / 32) * 32
            if (threads > 2048) threads = 2048
            printf "| `%s` | %d | %d | %d | %s |\n", n, most[n], bytes[n], threads, (n in spilled) ? spilled[n] : "none"
            if (n in spilled) bad = 1
        }
        exit bad
    }'
