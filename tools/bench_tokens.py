#!/usr/bin/env python3
"""Does it pay to compute only some tokens at a step (the RAS class, arXiv 2502.10389), or to skip whole steps instead?

    tools/bench_tokens.py [--model models/reference] [--steps 20 50] [--out FILE.json]

Both are emulated on diffusers' model at equal arithmetic: a step that computes half the tokens costs half a step (queries,
keys, values, attention rows and feed-forward of the active half; gathering, scattering and choosing tokens are counted as
nothing, in favour of RAS), a reused step costs none. Quality is PSNR of the decoded frames against the uncached run of
the same seed.

RAS as microsoft/RAS has it: after some full steps only active tokens go through the model, attending to all tokens' keys
and values, of which the inactive ones' are those of their last computation; inactive tokens keep their last velocity.
Active are those whose last update varied most over channels, times exp(starvation x age); now and then a full step.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys

import torch

import reference_cache as rivals
import reference_pipeline as reference
import reference_rules as rules
from reference_pipeline import Request

PROMPTS = [
    ("a large red star spinning on a navy background", 7),
    ("a small purple ring bouncing on a gray background", 42),
    ("a green triangle growing on a white background", 5),
    ("a small cyan circle moving up on a black background", 11),
]


def rotate(x, cos, sin):
    """x: [1, tokens, heads, dim]; diffusers' rotary embedding."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[..., 0::2], sin[..., 1::2]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


class Tokens(rules.Rule):
    """Half-token steps. share: of the tokens that are active. kept: what inactive tokens repeat, their "velocity" (RAS) or
    velocity minus latent ("residual")."""

    def __init__(self, job, full: set[int], share: float, kept: str = "velocity", starvation: float = 0.1):
        super().__init__(job)
        self.full, self.share, self.kept, self.starvation = full, share, kept, starvation
        self.keys = [[None] * job.layers for _ in range(job.branches)]
        self.values = [[None] * job.layers for _ in range(job.branches)]
        self.last = [None] * job.branches  # velocity of each token, [1, C, T, h, w]
        self.latent = [None] * job.branches  # where it was computed
        self.age = None
        self.active = None

    def cost(self) -> float:
        return sum(1 if i in self.full else self.share for i in range(self.job.steps)) / self.job.steps

    def attention(self, block, layer, branch, x, rope, active):
        a = block.attn1
        q, k, v = a.norm_q(a.to_q(x)), a.norm_k(a.to_k(x)), a.to_v(x)
        q, k, v = (t.unflatten(2, (a.heads, -1)) for t in (q, k, v))
        q, k = rotate(q, *rope), rotate(k, *rope)
        if active is None:
            self.keys[branch][layer], self.values[branch][layer] = k, v
        else:
            self.keys[branch][layer][:, active], self.values[branch][layer][:, active] = k, v
            k, v = self.keys[branch][layer], self.values[branch][layer]
        y = torch.nn.functional.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return a.to_out[0](y.transpose(1, 2).flatten(2))

    def stack(self, parts, branch, active):
        x, rope = parts.embed(), parts.rope
        if active is not None:
            x, rope = x[:, active], tuple(t[:, active] for t in rope)
        for layer, block in enumerate(parts.model.blocks):
            shift, scale, gate, c_shift, c_scale, c_gate = (block.scale_shift_table + parts.projection.float()).chunk(6, dim=1)
            x = x + self.attention(block, layer, branch, block.norm1(x) * (1 + scale) + shift, rope, active) * gate
            x = x + block.attn2(block.norm2(x), parts.text, None, None)
            x = x + block.ffn(block.norm3(x) * (1 + c_scale) + c_shift) * c_gate
        return x

    def choose(self, parts):
        """Active tokens by the last update of the guided velocity."""
        c = self.last[0]
        v = c if self.job.branches == 1 else self.last[1] + self.job.guidance * (c - self.last[1])
        _, height, width = parts.model.config.patch_size
        change = torch.nn.functional.avg_pool2d(v[0].std(dim=0), (height, width)).flatten()
        score = change * torch.exp(self.starvation * self.age)
        active = score.topk(int(self.share * score.numel())).indices.sort().values
        self.age += 1
        self.age[active] = 0
        return active

    def velocity(self, step, branch, parts):
        tokens = 1
        for n in parts.lattice():
            tokens *= n
        if branch == 0:
            self.active = None if step in self.full else self.choose(parts)
            if self.active is None:
                self.age = torch.zeros(tokens)
        x = self.stack(parts, branch, self.active)
        if self.active is None:
            v = parts.head(x)
        else:
            whole = torch.zeros(1, tokens, x.shape[-1])
            whole[:, self.active] = x
            mask = torch.zeros(tokens, dtype=torch.bool)
            mask[self.active] = True
            _, height, width = parts.model.config.patch_size
            mask = mask.reshape(parts.lattice()).repeat_interleave(height, 1).repeat_interleave(width, 2)
            old = self.last[branch] if self.kept == "velocity" else self.last[branch] + (parts.latent - self.latent[branch])
            v = torch.where(mask, parts.head(whole), old)
            self.latent[branch] = torch.where(mask, parts.latent, self.latent[branch])
            self.last[branch] = torch.where(mask, v, self.last[branch])
            return v
        self.last[branch], self.latent[branch] = v.clone(), parts.latent.clone()
        return v


def spread(steps: int, first: int, count: int) -> list[int]:
    """`count` computed steps: the first ones, the last one, the others evenly between."""
    rest = count - first
    return sorted({*range(first), *(first + round((i + 1) * (steps - 1 - first) / rest) for i in range(rest))})


def settings(steps: int) -> list[tuple[str, dict]]:
    """(label, rule options); each group at one cost."""
    resets = {20: {10, 15}, 50: {12, 22, 32, 42}}.get(steps, {steps // 2})
    full = {*range(4), *resets}
    found = []
    for share in (0.5, 0.25):
        cost = len(full) + share * (steps - len(full))
        computed = spread(steps, 4, int(cost))
        group = f"{cost / steps:.2f}"
        found += [
            (f"{group} tokens {share:g}, velocity kept", {"rule": "tokens", "full": full, "share": share}),
            (f"{group} tokens {share:g}, velocity minus latent kept", {"rule": "tokens", "full": full, "share": share, "kept": "residual"}),
            (f"{group} steps {len(computed)}, residual reused", {"rule": "mask", "computed": computed}),
            (f"{group} steps {len(computed)}, residual forecast (taylor1)", {"rule": "mask", "computed": computed, "order": 1}),
            (f"{group} fewer steps: {len(computed)}", {"fewer": len(computed)}),
        ]
    return found


def measure(model: str, steps: int) -> list[dict]:
    rows: dict[str, list[float]] = {}
    pipe = reference.load(model)
    for prompt, seed in PROMPTS:
        request = Request(model, prompt, seed=seed, steps=steps, guidance=4.0, width=64, height=64, frames=17)
        plain = reference.run(pipe, request)
        everything = rivals.run_rule(request, {"rule": "tokens", "full": set(range(steps)), "share": 0.5})
        assert reference.relative_l2(everything.result.latents, plain.latents) < 1e-4, "the emulation is not the model"
        for label, options in settings(steps):
            if "fewer" in options:
                result = reference.run(pipe, Request(model, prompt, seed=seed, steps=options["fewer"], guidance=4.0, width=64, height=64, frames=17))
            else:
                result = rivals.run_rule(request, options).result
            rows.setdefault(label, []).append(reference.psnr(result.frames, plain.frames))
    return [{"steps": steps, "what": k, "psnr": round(statistics.mean(v), 2), "worst": round(min(v), 2)} for k, v in rows.items()]


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", default="models/reference")
    p.add_argument("--steps", type=int, nargs="+", default=[20, 50])
    p.add_argument("--out", type=pathlib.Path)
    a = p.parse_args()
    rules.RULES["tokens"] = Tokens
    rows = []
    for steps in a.steps:
        for row in measure(a.model, steps):
            print(f"{row['steps']:3} steps  {row['what']:55} PSNR {row['psnr']:6.2f} dB, worst {row['worst']:6.2f}", flush=True)
            rows.append(row)
    if a.out:
        a.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
