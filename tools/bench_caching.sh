#!/bin/bash
# bench_caching.sh BUILD - `make bench-caching`: every policy at several settings over 16 prompts and 2 seeds at 50 and 20
# steps, next to fewer steps at equal time and to cache-dit on torch (2 prompts a core). One process a core with one thread
# each, ours first. Writes BUILD/caching/*.csv, DOCS/caching-results.md and DOCS/pictures/caching.{svg,png}. An hour on two
# idle cores. For a first look: CACHING_PROMPTS=FILE, CACHING_SETTINGS=PREFIX (PREFIX-50.txt, PREFIX-20.txt), CACHING_DOCS=DIR.
set -eu
build=$1
out=$build/caching
prompts=${CACHING_PROMPTS:-tools/caching/prompts.txt}
settings=${CACHING_SETTINGS:-tools/caching/settings}
docs=${CACHING_DOCS:-docs}
cores=$(nproc)
rm -rf "$out"
mkdir -p "$out" "$docs/pictures"
out=$(realpath "$out")
build=$(realpath "$build")
python=$(realpath -s "$(tools/reference_env.sh)")
grep -v '^#' "$prompts" > "$out/prompts.txt"
split -n "l/$cores" --numeric-suffixes=1 "$out/prompts.txt" "$out/prompts-"
for part in "$out"/prompts-*; do head -2 "$part" > "$out/rival-${part##*-}"; done
# COMMAND PREFIX: once for every file PREFIX-NN, at once; in COMMAND it is $1, its number $2.
each() {
    local jobs=() part
    for part in "$out/$2"-*; do
        bash -c "$1" bash "$part" "${part##*-}" & jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job"; done
}
export build out python settings
for steps in 50 20; do
    export steps
    echo "caching at $steps steps" >&2
    each '"$build/tools/bench_caching" models/reference $steps "$1" "$settings-$steps.txt" 2 1 2>/dev/null > "$out/ours-$steps-$2.csv"' prompts
    each 'cd tools && "$python" bench_caching_rival.py ../models/reference $steps "$1" 1 1 2>/dev/null > "$out/theirs-$steps-$2.csv"' rival
done
"$python" tools/bench_caching.py "$out"/*.csv --table "$docs/caching-results.md" --plot "$docs/pictures/caching"
