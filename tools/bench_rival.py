#!/usr/bin/env python3
"""Times diffusers on torch, one command at a time, so that another program can be timed in between.

    tools/bench_rival.py models/reference --size 64x64x17 --threads 2

Reads commands on standard input, one a line, and answers each with one line of JSON:

    text               a prompt to the rows the denoiser sees: cleaning, tokenizer, text encoder
    forward            one denoiser forward, conditional branch ("forward uncond" for the empty prompt)
    decode             latents to frames in 0..1
    run N              the whole: text of both branches, N steps with guidance, decode
    quit
      -> {"seconds": 0.0123}   or   {"error": "..."}

The first line, before any command, is {"ready": true, ...}. `refrain-worker --bench` speaks the same.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time

import torch

import reference_pipeline as reference

PROMPT = "a large red star spinning on a navy background"
GUIDANCE = 5.0


class Rival:
    """A loaded pipeline and the inputs of its stages for one video size."""

    def __init__(self, model: str, size: tuple[int, int, int], dtype: torch.dtype, compiled: bool):
        self.width, self.height, self.frames = size
        # As diffusers' documentation runs this family: the autoencoder in float32 whatever the rest is.
        self.pipe = reference.load(model, dtype, torch.float32)
        scale_t, scale_y = self.pipe.vae_scale_factor_temporal, self.pipe.vae_scale_factor_spatial
        shape = (1, self.pipe.transformer.config.in_channels, (self.frames - 1) // scale_t + 1, self.height // scale_y, self.width // scale_y)
        self.latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self.rows = {"cond": self.encode(PROMPT), "uncond": self.encode("")}
        if compiled:
            self.pipe.transformer.compile_repeated_blocks()
            self.forward()  # compiles now, so that no timing includes it

    def encode(self, prompt: str) -> torch.Tensor:
        return self.pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=reference.TEXT_LENGTH)[0]

    def text(self) -> None:
        self.encode(PROMPT)

    def forward(self, branch: str = "cond") -> None:
        dtype = self.pipe.transformer.dtype
        self.pipe.transformer(hidden_states=self.latents.to(dtype), timestep=torch.tensor([721]),
                              encoder_hidden_states=self.rows[branch].to(dtype), return_dict=False)

    def decode(self) -> None:
        """What WanPipeline does after its loop."""
        config = self.pipe.vae.config
        mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
        video = self.pipe.vae.decode(self.latents / (1 / std) + mean, return_dict=False)[0]
        self.pipe.video_processor.postprocess_video(video, output_type="pt")

    def run(self, steps: str = "10") -> None:
        self.pipe(prompt=PROMPT, width=self.width, height=self.height, num_frames=self.frames, num_inference_steps=int(steps),
                  guidance_scale=GUIDANCE, generator=torch.Generator().manual_seed(0), output_type="pt")

    def answer(self, line: str) -> dict:
        command, *arguments = line.split()
        if command not in ("text", "forward", "decode", "run"):
            return {"error": f"{command}: not a command"}
        try:
            start = time.perf_counter()
            getattr(self, command)(*arguments)
            return {"seconds": time.perf_counter() - start}
        except Exception as e:  # the driver decides what to do about it
            return {"error": f"{line.strip()}: {type(e).__name__}: {e}"}


def size_of(text: str) -> tuple[int, int, int]:
    width, height, frames = (int(v) for v in text.lower().split("x"))
    return width, height, frames


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", type=pathlib.Path, help="pipeline directory")
    p.add_argument("--size", type=size_of, required=True, metavar="WxHxF")
    p.add_argument("--threads", type=int, required=True)
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of denoiser and text encoder")
    p.add_argument("--compile", action="store_true", help="torch.compile the denoiser's blocks")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.set_num_interop_threads(1)
    start = time.perf_counter()
    with torch.inference_mode():
        rival = Rival(str(a.model), a.size, reference.DTYPES[a.dtype], a.compile)
        print(json.dumps({"ready": True, "program": "diffusers", "load_seconds": time.perf_counter() - start, "dtype": a.dtype,
                          "compiled": a.compile, "threads": torch.get_num_threads(), **reference.versions()}), flush=True)
        for line in sys.stdin:
            if line.strip() == "quit":
                break
            if line.strip():
                print(json.dumps(rival.answer(line)), flush=True)


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ModuleNotFoundError) as e:
        sys.exit(f"bench_rival: {e}")
