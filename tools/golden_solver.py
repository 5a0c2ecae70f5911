"""Golden data for noise and solvers, from torch and diffusers: tests/golden/noise.json and solver.json.

    python tools/golden_solver.py tests/golden

Noise is stored as the bits of its float32 values (short buffers) or as a hash of them (long ones). Solvers are run
with a model that needs no weights, v = 0.3 x + 0.2 cos(3 x) + 0.1 t / 1000, and every intermediate latent is stored.
"""

import json
import os
import sys

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

START = [-1.5, -0.5, 0.25, 1.0]


def fnv1a(words):
    """FNV-1a over 32-bit words: small enough to be written again in the test."""
    value = 0xCBF29CE484222325
    for word in words:
        value = ((value ^ word) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return "%016x" % value


def noise_bits(seed, count):
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(count, generator=generator, dtype=torch.float32).numpy().view(np.uint32).tolist()


def noise_cases():
    cases = []
    for seed, count in [(0, 4), (0, 16), (7, 1), (7, 15), (42, 17), (1 << 33 | 5, 40)]:
        cases.append({"seed": str(seed), "count": count, "bits": noise_bits(seed, count)})
    for seed in [0, 1, 42, 0xFFFFFFFF, 1 << 32, (1 << 32) + 42, 987654321987654321, (1 << 64) - 1]:
        for count in list(range(1, 41)) + [5120, 5127]:
            cases.append({"seed": str(seed), "count": count, "hash": fnv1a(noise_bits(seed, count))})
    for count in range(100000, 100016):  # every remainder of a long buffer
        cases.append({"seed": "3", "count": count, "hash": fnv1a(noise_bits(3, count))})
    # The latent of 81 frames at 832x480.
    cases.append({"seed": "1234", "count": 2096640, "hash": fnv1a(noise_bits(1234, 2096640))})
    return cases


def run(scheduler, steps):
    """Every latent of a run, as the pipeline calls the scheduler."""
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)
    x = torch.tensor(START, dtype=torch.float32).reshape(1, 1, -1)
    latents = []
    for t in scheduler.timesteps:
        v = 0.3 * x + 0.2 * torch.cos(3 * x) + 0.1 * t.to(torch.float32) / 1000
        x = scheduler.step(v, t, x, return_dict=False)[0]
        latents.append(x.flatten().tolist())
    assert np.isfinite(latents).all()
    return {
        "timesteps": [float(t) for t in scheduler.timesteps],
        "sigmas": scheduler.sigmas.tolist(),
        "latents": latents,
    }


def unipc_case(steps, shift, order, **options):
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, solver_order=order, **options
    )
    return {"kind": "unipc", "steps": steps, "shift": shift, "order": order, **options, **run(scheduler, steps)}


def euler_case(steps, shift, **options):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift, **options)
    return {"kind": "euler", "steps": steps, "shift": shift, **options, **run(scheduler, steps)}


def solver_cases():
    cases = []
    for shift in [1.0, 3.0, 5.0, 12.0]:
        for steps in [1, 2, 3, 4, 10, 20, 30, 50]:
            cases.append(euler_case(steps, shift))
            for order in [1, 2, 3]:
                if steps <= 10 or order == 2 or shift == 5.0:
                    cases.append(unipc_case(steps, shift, order))
    cases.append(euler_case(12, 1.15))
    cases.append(euler_case(12, 3.0, shift_terminal=0.1))
    cases.append(unipc_case(12, 2.37, 2))
    cases.append(unipc_case(200, 3.0, 3))
    cases.append(unipc_case(12, 3.0, 3, final_sigmas_type="sigma_min"))
    cases.append(unipc_case(12, 3.0, 3, final_sigmas_type="sigma_min", solver_type="bh1"))
    cases.append(unipc_case(12, 3.0, 2, final_sigmas_type="sigma_min", lower_order_final=False))
    cases.append(unipc_case(12, 3.0, 3, disable_corrector=[0, 3, 4]))
    cases.append(unipc_case(12, 3.0, 2, shift_terminal=0.1))
    return cases


def write(path, cases):
    with open(path, "w") as f:
        f.write("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")


def shorten(case):
    """Nine digits are enough to get a float32 back."""
    return json.loads(json.dumps(case), parse_float=lambda text: float("%.9g" % float(text)))


def make(out_dir):
    os.makedirs(out_dir, exist_ok=True)
    write(os.path.join(out_dir, "noise.json"), noise_cases())
    write(os.path.join(out_dir, "solver.json"), [shorten(c) for c in solver_cases()])


if __name__ == "__main__":
    make(sys.argv[1] if len(sys.argv) > 1 else "tests/golden")
