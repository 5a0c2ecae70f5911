#!/bin/bash
# bench.sh BUILD - everything `make bench` measures: our kernels against this machine's peak, the fabric against raw
# ZeroMQ and MPI, whole stages against diffusers, and one job on two ranks against one. Prints markdown; docs/speed.md keeps the results that count.
set -eu
build=$1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
if [ -x "$build/tools/bench_ops" ]; then "$build/tools/bench_ops"; fi
if [ -x "$build/tools/bench_fabric" ]; then "$build/tools/bench_fabric"; fi
python3 tools/bench.py
wide=$(mktemp -d)
trap 'rm -rf "$wide"' EXIT
# Wan-1.3B's width and 1,280 tokens; what comes before and after the blocks as small as it can be.
"$(tools/reference_env.sh)" tools/make_checkpoint.py --out "$wide/model" --heads 12 --head-dim 128 --ffn-dim 8960 --layers 4 \
    --transformer-dtype bfloat16 --vae-mult 1,1,1 --vae-temporal 1,1 >/dev/null
"$build/tools/bench_alone" "$build" "$wide/model" 128x128x17 2 5
