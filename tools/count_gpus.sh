#!/bin/bash
# count_gpus.sh - how many GPUs a process started here sees: those of CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists;
# 1 where neither says.
if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | wc -l
else
    count=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ')
    echo $((count > 0 ? count : 1))
fi
