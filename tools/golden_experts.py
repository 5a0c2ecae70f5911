"""Golden data of runs with two experts: prompt in, latents and frames out, by diffusers' own loop.

tests/golden/experts.json lists the runs as runs.json does (tools/golden_pipeline.py), and beside it lie the same files,
experts_NAME.safetensors. A run has three fields more: "boundary", the model's boundary_ratio or the one put in its
place; "guidance_2" (null: not given); and "high_steps", how many steps the first transformer was called for.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib

import torch

import golden_pipeline
import reference_pipeline as reference
from golden_pipeline import RING, STAR
from reference_pipeline import Request

D, E = "tests/models/tiny-d", "tests/models/tiny-e"


@dataclasses.dataclass
class Case(golden_pipeline.Case):
    boundary: float | None = None  # None: the model's
    frames: torch.dtype | None = None


CASES = {
    # Across the boundary, by both solvers, with another guidance beyond it.
    "d-unipc": Case(Request(D, STAR, seed=5, steps=8, guidance=4.0, guidance_2=3.0, width=48, height=32, frames=9), frames=torch.float32, steps=True),
    "d-euler": Case(Request(D, RING, negative="blurry", seed=6, steps=7, guidance=3.0, guidance_2=5.5, width=32, height=32, frames=5,
                            solver="euler", shift=5.0), steps=True),
    "e-euler": Case(Request(E, STAR, seed=7, steps=9, guidance=4.0, guidance_2=2.0, width=48, height=32, frames=9), steps=True),
    "e-unipc": Case(Request(E, RING, negative=STAR, seed=8, steps=12, guidance=5.0, guidance_2=3.5, width=32, height=48, frames=5,
                            solver="unipc", shift=3.0), steps=True),
    # As the authors of Wan 2.2 sample T2V-A14B: 40 steps, shift 12, guidance 4 and 3.
    "d-forty": Case(Request(D, STAR, seed=9, steps=40, guidance=4.0, guidance_2=3.0, width=32, height=32, frames=5, shift=12.0)),
    "e-fifty": Case(Request(E, RING, seed=2**40 + 1, steps=50, guidance=6.0, width=32, height=32, frames=5, shift=8.0)),
    # One guidance for both; one below one beyond the boundary; none at all, whatever the second says.
    "d-same": Case(Request(D, RING, seed=10, steps=6, guidance=4.5, width=32, height=32, frames=5), steps=True),
    "d-weak": Case(Request(D, STAR, negative=RING, seed=11, steps=6, guidance=4.0, guidance_2=0.5, width=32, height=32, frames=5), steps=True),
    "e-unguided": Case(Request(E, STAR, seed=12, steps=6, guidance=1.0, guidance_2=4.0, width=32, height=32, frames=5), steps=True),
    # The boundary is never reached; every step is beyond it (the first timestep of UniPC is 999); a step is right on it.
    "d-high": Case(Request(D, STAR, seed=13, steps=1, guidance=5.0, guidance_2=2.0, width=32, height=32, frames=5), steps=True),
    "d-low": Case(Request(D, RING, seed=14, steps=4, guidance=3.0, guidance_2=2.0, width=32, height=32, frames=5), boundary=1.0, steps=True),
    "d-equal": Case(Request(D, STAR, seed=15, steps=8, guidance=4.0, guidance_2=7.0, width=32, height=32, frames=5), boundary=0.9, steps=True),
}


@contextlib.contextmanager
def counting(pipe, boundary: float | None):
    """With another boundary; what is yielded becomes [calls of the first transformer, of the second]."""
    own, calls = pipe.config.boundary_ratio, [0, 0]

    def count(index):
        def hook(*_):
            calls[index] += 1
        return hook

    hooks = [m.register_forward_hook(count(i)) for i, m in enumerate((pipe.transformer, pipe.transformer_2))]
    pipe.register_to_config(boundary_ratio=own if boundary is None else boundary)
    try:
        yield calls
    finally:
        pipe.register_to_config(boundary_ratio=own)
        for hook in hooks:
            hook.remove()


def make(out_dir: pathlib.Path) -> None:
    runs = []
    for name, case in CASES.items():
        request = golden_pipeline.resolved(case.request)
        fields = dataclasses.asdict(request)
        pipe = reference.load(request.model)
        boundary = pipe.config.boundary_ratio if case.boundary is None else case.boundary
        with counting(pipe, case.boundary) as calls:
            result = reference.run(pipe, request)
        branches = 2 if request.guidance > 1 else 1
        assert sum(calls) == branches * request.steps, (name, calls)
        high = calls[0] // branches
        reference.save(out_dir / f"experts_{name}.safetensors", golden_pipeline.tensors_of(case, result), fields)
        runs.append({"name": name, **fields, "boundary": boundary, "high_steps": high, "golden": f"experts_{name}",
                     "has_frames": case.frames is not None, "has_steps": case.steps})
        print(f"         {name}: {high} of {request.steps} steps by the first expert")
    (out_dir / "experts.json").write_text(json.dumps({"made_by": reference.versions(), "runs": runs}, indent=1) + "\n")
