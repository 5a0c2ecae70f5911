#!/usr/bin/env python3
"""The reference implementation (diffusers on torch) beside refrain: golden data, single runs, comparisons.

    tools/reference.py golden [--only NAME]        makes tests/golden anew
    tools/reference.py run --model DIR --prompt TEXT --save-latents A.safetensors ...
    tools/reference.py compare ours.safetensors theirs.safetensors
    tools/reference.py floor                       how far rounding alone moves each golden run

Needs the environment of tools/reference_env.sh. See docs/reference.md.
"""
from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ["text", "solver", "vae", "denoiser", "pipeline", "experts", "branches", "quality", "masks", "forecasts", "policies", "cache"]  # tools/golden_NAME.py, each with make(out_dir)


def golden(a: argparse.Namespace) -> int:
    names = [n for n in GOLDEN if (ROOT / "tools" / f"golden_{n}.py").exists()]
    if a.only and a.only not in names:
        sys.exit(f"reference: --only {a.only}: one of {', '.join(names)}")
    import reference_pipeline as reference

    reference.quiet()
    (a.out / "cache").mkdir(parents=True, exist_ok=True)
    for name in [a.only] if a.only else names:
        print(f"golden   {name}", flush=True)
        importlib.import_module(f"golden_{name}").make(a.out)
    total = sum(f.stat().st_size for f in a.out.rglob("*") if f.is_file())
    print(f"golden   {a.out}: {total / 1e6:.2f} MB")
    return 0


def write_video(frames, path: pathlib.Path, fps: int) -> None:
    """frames: [F, 3, H, W] in 0..1. Truncates to bytes as diffusers' export_to_video does."""
    count, _, height, width = frames.shape
    pixels = (frames.clamp(0, 1) * 255).byte().permute(0, 2, 3, 1).contiguous().numpy().tobytes()
    command = ["ffmpeg", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-",
               "-pix_fmt", "yuv420p", str(path)]
    try:
        subprocess.run(command, input=pixels, check=True)
    except (OSError, subprocess.CalledProcessError) as e:
        sys.exit(f"reference: --output {path}: {count} frames could not be written: {e}")


def run(a: argparse.Namespace) -> int:
    import reference_pipeline as reference

    fields = {k: v for k, v in vars(a).items() if k in reference.Request.__dataclass_fields__}
    request = reference.Request(**fields)
    pipe = reference.load(request.model, reference.DTYPES[a.dtype])
    result = reference.run(pipe, request)
    solver, shift = reference.solver_of(pipe)
    facts = {**fields, "solver": request.solver or solver, "shift": shift if request.shift is None else request.shift, "dtype": a.dtype}
    if a.save_latents:
        reference.save(a.save_latents, {"latents": result.latents.float()}, facts)
    if a.save_frames:
        reference.save(a.save_frames, {"frames": result.frames.float()}, facts)
    if a.output:
        write_video(result.frames[0].float(), a.output, fps=16)
    return 0


def compare(a: argparse.Namespace) -> int:
    """Exit status 1 when a limit was given and is exceeded, or nothing can be compared."""
    import safetensors.torch
    import torch

    import reference_pipeline as reference

    ours, theirs = safetensors.torch.load_file(a.ours), safetensors.torch.load_file(a.theirs)
    common = [n for n in ours if n in theirs]
    good = bool(common)
    for name in common:
        x, y = ours[name].float(), theirs[name].float()
        if x.shape != y.shape:
            print(f"{name:24} shapes differ: {list(x.shape)} and {list(y.shape)}")
            good = False
            continue
        relative, worst = reference.relative_l2(x, y), (x - y).abs().max().item()
        note = "bit-identical" if torch.equal(ours[name], theirs[name]) else f"relative L2 {relative:.3e}  max abs {worst:.3e}"
        if name == "frames":
            decibels = reference.psnr(x, y)
            note += f"  PSNR {decibels:.2f} dB"
            good &= a.psnr is None or decibels >= a.psnr
        else:
            good &= a.limit is None or relative <= a.limit  # NaN is below no limit
        print(f"{name:24} {note}")
    for name in sorted(ours.keys() ^ theirs.keys()):
        print(f"{name:24} only in {a.ours if name in ours else a.theirs}")
    return 0 if good else 1


def floor(_a: argparse.Namespace) -> int:
    import golden_denoiser
    import golden_pipeline

    for row in golden_denoiser.floor() + golden_pipeline.floor():
        print(json.dumps(row))
    return 0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    verbs = p.add_subparsers(required=True, metavar="VERB")

    v = verbs.add_parser("golden", help="make the golden data anew")
    v.add_argument("--only", metavar="NAME", help="one of " + ", ".join(GOLDEN))
    v.add_argument("--out", type=pathlib.Path, default=ROOT / "tests" / "golden")
    v.set_defaults(do=golden)

    v = verbs.add_parser("run", help="make one video; options as those of `refrain generate`", argument_default=argparse.SUPPRESS)
    v.add_argument("--model", required=True, metavar="DIR")
    v.add_argument("--prompt", required=True, metavar="TEXT")
    v.add_argument("--negative", metavar="TEXT")
    v.add_argument("--seed", type=int)
    v.add_argument("--steps", type=int)
    v.add_argument("--guidance", type=float)
    v.add_argument("--guidance-2", type=float, help="of a second expert's steps")
    v.add_argument("--width", type=int)
    v.add_argument("--height", type=int)
    v.add_argument("--frames", type=int)
    v.add_argument("--solver", choices=["unipc", "euler"])
    v.add_argument("--shift", type=float)
    v.add_argument("--output", type=pathlib.Path, metavar="FILE.mp4", default=None, help="through the ffmpeg program")
    v.add_argument("--save-latents", type=pathlib.Path, metavar="FILE", default=None)
    v.add_argument("--save-frames", type=pathlib.Path, metavar="FILE", default=None)
    v.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of all arithmetic")
    v.set_defaults(do=run)

    v = verbs.add_parser("compare", help="distances between tensors of the same name in two safetensors files")
    v.add_argument("ours", type=pathlib.Path)
    v.add_argument("theirs", type=pathlib.Path, help="the reference")
    v.add_argument("--limit", type=float, metavar="X", help="fail above this relative L2 (frames excepted)")
    v.add_argument("--psnr", type=float, metavar="DB", help="fail when frames are below")
    v.set_defaults(do=compare)

    v = verbs.add_parser("floor", help="what rounding alone does: to one forward, and to whole runs")
    v.set_defaults(do=floor)
    return p


if __name__ == "__main__":
    arguments = parser().parse_args()
    try:
        sys.exit(arguments.do(arguments))
    except (FileNotFoundError, ModuleNotFoundError) as error:
        sys.exit(f"reference: {error}")
