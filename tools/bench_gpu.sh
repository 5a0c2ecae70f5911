#!/bin/bash
# bench_gpu.sh BUILD [MODEL [WxHxF]] - all there is to measure on this machine's GPUs (docs/gpu.md), for `make bench-gpu`, which
# has built BUILD with CUDA=1: every op against the GPU's peak; attention of ours against cuDNN's; and with a MODEL's
# directory whole forwards, decoding, and a queue of jobs on 1, 2, 4, ... GPUs over zmq and nccl.
#
#   BENCH_GPU_OPTIONS   of bench_gpu: --only TEXT, --seconds S, --tflops N --gbs N, --tiny
#   REFRAIN_GPUS        how many GPUs, where nvidia-smi does not tell it
#   BENCH_GPU_JOBS      "STEPS JOBS ROUNDS" of bench_scaling
#
# Exit 77 after a sentence where there is no GPU that can be used.
set -u
here=$(dirname "$0")
build=$(realpath "$1")
model=${2:-}
size=${3:-832x480x81}
read -ra options <<<"${BENCH_GPU_OPTIONS:-}"
read -ra jobs <<<"${BENCH_GPU_JOBS:-8 2 3}"
export REFRAIN_PLUGINS=${REFRAIN_PLUGINS:-$build} REFRAIN_BACKEND=cuda
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
bench=$build/tools/bench_gpu

why=$("$build/refrain-worker" --version | sed -n 's/^cuda: //p')
if [ -n "$why" ]; then
    echo "$why"
    exit 77
fi

echo "== ops"
"$bench" "${options[@]}" || exit

# Kinds of attention this build and machine have: the variable is read when attention first runs.
kinds=(auto)
if REFRAIN_ATTENTION=neither "$bench" --tiny --only attention >/dev/null 2>&1; then
    echo "== attention: this build has its own alone"
elif why=$(REFRAIN_ATTENTION=cudnn "$bench" --tiny --only attention 2>&1 >/dev/null); then
    kinds=(own cudnn)
    echo "== attention: microseconds of our own, of cuDNN, ratio; medians of 3 rounds in turns"
    for round in 1 2 3; do
        for kind in own cudnn; do
            REFRAIN_ATTENTION=$kind "$bench" "${options[@]}" --only attention | sed -n "s/^\(attention.*[^ ]\)  *\([0-9.]*\) us .*/$kind\t\1\t\2/p"
        done
    done | awk -F'\t' '
        function median(list,    n, i, j, x, v) {
            n = split(list, v, " ")
            for (i = 2; i <= n; i++) for (j = i; j > 1 && v[j] + 0 < v[j - 1] + 0; j--) { x = v[j]; v[j] = v[j - 1]; v[j - 1] = x }
            return v[int((n + 1) / 2)]
        }
        !($2 in seen) { seen[$2] = 1; names[++count] = $2 }
        { times[$1, $2] = times[$1, $2] " " $3 }
        END {
            for (i = 1; i <= count; i++) {
                own = median(times["own", names[i]]); cudnn = median(times["cudnn", names[i]])
                printf "%-52s %12.1f %12.1f   %.3f\n", names[i], own, cudnn, own / cudnn
            }
        }'
else
    echo "== attention: our own alone, since $why"
fi

if [ -z "$model" ]; then
    echo "== whole steps and more GPUs: not without a model (make bench-gpu MODEL=DIRECTORY)"
    exit 0
fi

# Seconds of commands, the first of each kind being a warm-up.
echo "== one forward of a step (a guided step is two), the text, the decoder: $model at $size, median s"
for kind in "${kinds[@]}"; do
    { echo text; echo forward; echo decode; printf 'text\n%.0s' 1 2 3; printf 'forward\n%.0s' 1 2 3 4 5; printf 'decode\n%.0s' 1 2 3; } |
        REFRAIN_ATTENTION=$kind "$build/refrain-worker" --bench "$model" --size "$size" --threads 1 |
        awk -v kind="$kind" '
            /error/ { print; bad = 1 }
            /seconds/ { sub(/.*: /, ""); s[++n] = $0 + 0 }
            function median(first, last,    i, j, x) {
                for (i = first + 1; i <= last; i++) for (j = i; j > first && s[j] < s[j - 1]; j--) { x = s[j]; s[j] = s[j - 1]; s[j - 1] = x }
                return s[int((first + last) / 2)]
            }
            END {
                if (bad || n != 14) exit 1
                printf "attention %-6s text %.4f   forward %.4f   decode %.4f\n", kind, median(4, 6), median(7, 11), median(12, 14)
            }' || exit 1
done

gpus=${REFRAIN_GPUS:-$("$here/count_gpus.sh")}
echo "== a queue of jobs: $model at $size, ${jobs[0]} steps, up to $gpus GPU(s)"
"$build/tools/bench_scaling" "$build" "$model" "$gpus" "$size" "${jobs[@]}"
