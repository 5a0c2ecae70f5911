#!/usr/bin/env python3
"""step_costs.py - what a whole step of a Wan model costs on paper, as docs/gpu.md has it.

    tools/step_costs.py                       Wan 14B at 1280x720, 81 frames
    tools/step_costs.py --model 1.3b --size 832x480x81

Operations and bytes per element are those that the kernels' own counters add up to in emulation (tests/test_cuda_costs.c,
tests/test_cuda_attention.c); which op runs how often on what is worker/model/denoiser.c; rates are what others report for
these libraries on these GPUs (docs/gpu.md says which), and 90 % of the memory's bandwidth.
"""
import argparse

MODELS = {  # hidden, feed-forward, blocks, rows of text
    "14b": (5120, 13824, 40, 512),
    "1.3b": (1536, 8960, 30, 512),
}
GPUS = {  # TFLOP/s of dense layers, of attention (several ways), TB/s
    "A100 80 GB": (250, {"own": 200}, 2.04),
    "H100 SXM": (692, {"own": 360, "cuDNN": 650}, 3.35),
    "B200": (1575, {"cuDNN": 1300}, 8.0),
}
BRANCHES = 2


def block(tokens, hidden, wide, text):
    """TFLOP of dense layers and of attention, and GB that passes move, of one block and branch."""
    dense = 2 * tokens * hidden * (6 * hidden + 2 * wide)  # q, k, v, out; text q, text out; up, down
    attention = 4 * tokens * hidden * (tokens + text)
    layer_norms = 3 * (4 + 2)  # bytes an element: float32 to bf16
    rms_norms = 3 * (2 + 2)  # q and k with rotation, text q
    residuals = 2 * (8 + 4)  # gated, float32
    return dense / 1e12, attention / 1e12, tokens * hidden * (layer_norms + rms_norms + residuals) / 1e9


def main():
    options = argparse.ArgumentParser(description="What a whole step of a Wan model costs on paper.")
    options.add_argument("--model", choices=MODELS, default="14b")
    options.add_argument("--size", default="1280x720x81", help="WIDTHxHEIGHTxFRAMES")
    chosen = options.parse_args()
    width, height, frames = (int(n) for n in chosen.size.split("x"))
    hidden, wide, blocks, text = MODELS[chosen.model]
    tokens = ((frames - 1) // 4 + 1) * (height // 16) * (width // 16)
    dense, attention, moved = block(tokens, hidden, wide, text)
    launches = 14 + 3 * -(-tokens // 4096)
    print(f"{tokens} tokens; a block and branch: {dense:.2f} TFLOP dense, {attention:.2f} of attention, "
          f"{moved:.1f} GB of passes, {launches} launches")
    times = blocks * BRANCHES
    print(f"a step, {times} of them: {dense * times / 1e3:.2f} + {attention * times / 1e3:.2f} PFLOP, "
          f"{moved * times / 1e3:.2f} TB")
    print("\n| seconds a step | dense | attention | passes | sum |\n|---|---|---|---|---|")
    for name, (dense_rate, ways, bandwidth) in GPUS.items():
        for way, rate in ways.items():
            parts = (dense * times / dense_rate, attention * times / rate, moved * times / 1e3 / (0.9 * bandwidth))
            print(f"| {name}, {way} | " + " | ".join(f"{p:.2f}" for p in (*parts, sum(parts))) + " |")


if __name__ == "__main__":
    main()
