"""Golden data of whole runs: prompt in, latents and frames out, by diffusers' own loop.

tests/golden/runs.json lists the runs, each with every option that makes it (solver and shift spelled out, also where
they are the model's defaults), so that a test can loop over them. Beside it, run_NAME.safetensors holds

    noise                    [1, C, T, h, w]      where it starts: torch's CPU generator with the run's seed
    timesteps, sigmas        [steps], [steps + 1]
    latents                  [1, C, T, h, w]      the last, before decoding
    frames                   [1, F, 3, H, W]      in 0..1, where kept; float16 in the larger ones (rounding: 77 dB)
    stepI.velocity, stepI.latent                  in "steps" runs: after guidance; after solver step I
"""
from __future__ import annotations

import dataclasses
import json
import pathlib

import torch

import reference_pipeline as reference
from reference_pipeline import Request

REFERENCE, A, B, C = "models/reference", "tests/models/tiny-a", "tests/models/tiny-b", "tests/models/tiny-c"
STAR = "a large red star spinning on a navy background"
RING = "a small purple ring bouncing on a gray background"


@dataclasses.dataclass
class Case:
    request: Request
    frames: torch.dtype | None = torch.float32  # how decoded frames are kept; None: not at all
    steps: bool = False  # keep every step


CASES = {
    # The trained model, as the issue of a first whole path states it: the acceptance runs.
    "reference-unipc": Case(Request(REFERENCE, STAR, seed=7, steps=20, guidance=4.0, width=64, height=64, frames=17), torch.float16),
    "reference-euler": Case(Request(REFERENCE, RING, seed=42, steps=10, guidance=1.0, width=80, height=48, frames=9, solver="euler"), torch.float16),
    "reference-negative": Case(Request(REFERENCE, "a green triangle growing on a white background", negative="a blue square, gray background",
                                       seed=2**32 + 5, steps=12, guidance=5.0, width=64, height=64, frames=17, shift=5.0), None),
    "reference-defaults": Case(Request(REFERENCE, "a small cyan circle moving up on a black background", width=32, height=48, frames=5)),
    "reference-steps": Case(Request(REFERENCE, STAR, seed=1, steps=5, guidance=3.0, width=48, height=32, frames=9), None, steps=True),
    "reference-still": Case(Request(REFERENCE, "a pink cross standing still on a beige background", seed=9, steps=6, guidance=3.5, width=96,
                                    height=64, frames=1)),
    # Odd widths. Guidance below one switches the negative branch off, whatever it says.
    "tiny-a-steps": Case(Request(A, RING, negative="blurry", seed=5, steps=6, guidance=3.0, width=80, height=48, frames=9), torch.float16, steps=True),
    "tiny-a-one-step": Case(Request(A, STAR, seed=6, steps=1, guidance=7.5, width=32, height=32, frames=5)),
    "tiny-a-long": Case(Request(A, " and ".join([STAR, RING] * 30), negative="ignored", seed=8, steps=4, guidance=0.5, width=32, height=32, frames=13)),
    # Mixed dtypes in shards; text that needs cleaning.
    "tiny-b-unipc": Case(Request(B, "a \u201clarge\u201d &lt;red&gt; star,\t spinning\n on a  \uff4e\uff41\uff56\uff59 background \u2013 caf\u00e9", seed=123456789,
                                 steps=10, guidance=6.0, width=48, height=80, frames=17), torch.float16),
    "tiny-b-euler": Case(Request(B, RING, seed=2, steps=7, guidance=2.0, width=64, height=32, frames=5, solver="euler", shift=1.0), steps=True),
    # Euler by default, another number of latent channels, another scale.
    "tiny-c-euler": Case(Request(C, STAR, seed=3, steps=8, guidance=4.0, width=48, height=32, frames=9), steps=True),
    "tiny-c-unipc": Case(Request(C, "", negative=RING, seed=4, steps=9, guidance=5.0, width=32, height=48, frames=13, solver="unipc"), torch.float16),
}


def resolved(r: Request) -> Request:
    """With the model's own solver and shift spelled out."""
    own, shift = reference.solver_of(reference.load(r.model))
    return dataclasses.replace(r, solver=r.solver or own, shift=shift if r.shift is None else r.shift)


def tensors_of(case: Case, result: reference.Result) -> dict[str, torch.Tensor]:
    data = {"noise": result.noise, "timesteps": result.timesteps.float(), "sigmas": result.sigmas, "latents": result.latents}
    if case.frames is not None:
        data["frames"] = result.frames.to(case.frames)
    if case.steps:
        for i, (velocity, latent) in enumerate(zip(result.velocities, result.steps)):
            data |= {f"step{i}.velocity": velocity, f"step{i}.latent": latent}
    return data


def make(out_dir: pathlib.Path) -> None:
    runs = []
    for name, case in CASES.items():
        request = resolved(case.request)
        fields = dataclasses.asdict(request)
        result = reference.run(reference.load(request.model), request)
        reference.save(out_dir / f"run_{name}.safetensors", tensors_of(case, result), fields)
        runs.append({"name": name, **fields, "golden": f"run_{name}", "has_frames": case.frames is not None, "has_steps": case.steps})
    (out_dir / "runs.json").write_text(json.dumps({"made_by": reference.versions(), "runs": runs}, indent=1) + "\n")


def floor(nudge: float = 1e-6) -> list[dict]:
    """How much each run magnifies a relative change of its noise: what rounding alone may do to the result."""
    found = []
    for name, case in CASES.items():
        pipe = reference.load(case.request.model)
        plain = reference.run(pipe, case.request)
        noise = plain.noise * (1 + nudge * torch.randn(plain.noise.shape, generator=torch.Generator().manual_seed(99)))
        moved = reference.run(pipe, case.request, noise)
        found.append({"run": name, "magnification": reference.relative_l2(moved.latents, plain.latents) / reference.relative_l2(noise, plain.noise),
                      "frames_psnr": reference.psnr(moved.frames, plain.frames)})
    return found
