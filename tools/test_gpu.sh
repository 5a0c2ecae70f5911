#!/bin/bash
# test_gpu.sh BUILD - the tests that need a GPU, on this machine's (docs/gpu.md): ops against `ref`, then whole requests, on
# two GPUs and over NCCL too where two are there. Attention: by our own kernel, and by what is taken by itself. For `make test-gpu`, which has built BUILD with CUDA=1.
#
# Exit 77 after a sentence where there is no GPU that can be used; else that of run_tests.sh. REFRAIN_TEST_GPU=N: the
# number of GPUs, where nvidia-smi does not tell it.
set -u
build=$(realpath "$1")
export REFRAIN_PLUGINS=${REFRAIN_PLUGINS:-$build}
why=$("$build/refrain-worker" --version | sed -n 's/^cuda: //p')
if [ -n "$why" ]; then
    echo "$why"
    exit 77
fi
here=$(dirname "$0")
export REFRAIN_TEST_GPU=${REFRAIN_TEST_GPU:-$("$here/count_gpus.sh")}
echo "$REFRAIN_TEST_GPU GPU(s)"
tests=$build/tests
exec "$here/run_tests.sh" "env REFRAIN_ATTENTION=own $tests/gpu/test_ops" \
    "env REFRAIN_ATTENTION=auto REFRAIN_TEST_FILTER=attention_of* $tests/gpu/test_ops" "$tests/gpu/test_caching_ops" "$tests/gpu/test_conv" \
    "$tests/gpu/test_wide_conv" "$tests/test_cuda_requests"
