#!/bin/bash
# bench_plan.sh BUILD - what the planner predicts for one job on one and two ranks of this machine, beside what it takes: a model of
# Wan-1.3B's width at 1,280 tokens, what comes before and after its blocks as small as it can be (docs/planner.md).
set -eu
build=$1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
wide=$(mktemp -d)
trap 'rm -rf "$wide"' EXIT
"${REFRAIN_REFERENCE_PYTHON:-$(tools/reference_env.sh)}" tools/make_checkpoint.py --out "$wide/model" --heads 12 --head-dim 128 \
    --ffn-dim 8960 --layers 4 --transformer-dtype bfloat16 --vae-mult 1,1,1 --vae-temporal 1,1 >/dev/null
"$build/tools/bench_plan" "$build" "$wide/model" 128x128x17 2 5
