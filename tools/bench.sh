#!/bin/bash
# bench.sh BUILD - everything `make bench` measures: our kernels against this machine's peak, the fabric against raw
# ZeroMQ and MPI, and whole stages against diffusers. Prints markdown; docs/speed.md keeps the results that count.
set -eu
build=$1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
if [ -x "$build/tools/bench_ops" ]; then "$build/tools/bench_ops"; fi
if [ -x "$build/tools/bench_fabric" ]; then "$build/tools/bench_fabric"; fi
python3 tools/bench.py
