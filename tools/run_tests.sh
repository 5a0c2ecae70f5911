#!/bin/bash
# run_tests.sh PROGRAM... - runs test programs one after another, each under a time limit; prints a line for each, the
# whole output of those that fail, and a closing line with the counts. Exit 1 if any failed.
#
# A program is a cmocka binary, or any command that exits 0 on success and 77 where it cannot be run. REFRAIN_TEST_SECONDS is the limit of each (300).
set -u
limit=${REFRAIN_TEST_SECONDS:-300}
passed=0 failed=0
log=$(mktemp)
# Stand-in GPUs of one run are not those of another at the same time.
REFRAIN_GPU_LOCKS=$(mktemp -d)
export REFRAIN_GPU_LOCKS
trap 'rm -rf "$log" "$REFRAIN_GPU_LOCKS"' EXIT
# Open MPI refuses to start as root, and more ranks than cores, unless told that it is meant.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
export OMPI_MCA_mpi_yield_when_idle=1
for program in "$@"; do
    began=$(date +%s.%N)
    timeout --kill-after=10 "$limit" $program >"$log" 2>&1
    code=$?
    seconds=$(echo "$(date +%s.%N) $began" | awk '{printf "%.1f", $1 - $2}')
    good=$(grep -c '^\[       OK \]' "$log")
    bad=$(grep -c '^\[  FAILED  \] [a-z_0-9]*$' "$log")
    if [ $code -eq 0 ]; then
        [ "$good" -gt 0 ] || good=1
        passed=$((passed + good))
        printf 'ok      %-44s %3d tests  %6s s\n' "${program##*/}" "$good" "$seconds"
    elif [ $code -eq 77 ]; then
        printf 'skipped %-44s %s\n' "${program##*/}" "$(tail -n 1 "$log")"
    else
        [ "$bad" -gt 0 ] || bad=1
        passed=$((passed + good)) failed=$((failed + bad))
        [ $code -eq 124 ] && echo "TIMEOUT after $limit s" >>"$log"
        printf 'FAILED  %-44s exit %d  %6s s\n' "${program##*/}" "$code" "$seconds"
        sed 's/^/    /' "$log"
    fi
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
