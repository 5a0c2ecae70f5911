#!/bin/bash
# bench_caching.sh BUILD - `make bench-caching`: every policy at several settings over 16 prompts and 2 seeds at 50 and 20
# steps, next to fewer steps at equal time and to cache-dit on torch. One process a core with one thread each, ours first.
# Writes BUILD/caching/*.csv, docs/caching-results.md and docs/pictures/caching.{svg,png}. About 40 minutes on two cores.
set -eu
build=$1
out=$build/caching
cores=$(nproc)
mkdir -p "$out" docs/pictures
python=$(tools/reference_env.sh)
grep -v '^#' tools/caching/prompts.txt > "$out/prompts.txt"
split -n "l/$cores" --numeric-suffixes=1 "$out/prompts.txt" "$out/prompts-"
each() { # COMMAND...: for every part of the prompts at once; {} is its file, {n} its number
    local jobs=() n=0
    for part in "$out"/prompts-*; do
        n=$((n + 1))
        bash -c "${1//\{\}/$part}" bash "$n" & jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job"; done
}
for steps in 50 20; do
    echo "caching at $steps steps" >&2
    each "'$build/tools/bench_caching' models/reference $steps {} tools/caching/settings-$steps.txt 2 1 2>/dev/null > '$out/ours-$steps-'\$1.csv"
    each "cd tools && '$python' bench_caching_rival.py ../models/reference $steps '$PWD'/{} 1 1 2>/dev/null > '$PWD/$out/rival-$steps-'\$1.csv"
done
"$python" tools/bench_caching.py "$out"/*.csv --table docs/caching-results.md --plot docs/pictures/caching
