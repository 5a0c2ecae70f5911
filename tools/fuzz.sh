#!/bin/bash
# fuzz.sh FUZZER SECONDS - runs a libFuzzer binary for so long from the seeds in tests/seeds/NAME, if there are any; new
# inputs go to a directory that is thrown away, a crashing one stays where it is printed.
set -eu
name=$(basename "$1")
corpus=$(mktemp -d)
trap 'rm -rf "$corpus"' EXIT
seeds=tests/seeds/${name#fuzz_}
exec_seeds=()
[ -d "$seeds" ] && exec_seeds=("$seeds")
"$1" -max_total_time="$2" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 -artifact_prefix="$name-" \
    "$corpus" "${exec_seeds[@]}"
