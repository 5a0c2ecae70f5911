#!/usr/bin/env python3
"""Golden verdicts of the authors' own code: tests/golden/cache/authors.json, for tests/test_policies_golden.c.

Takes the forward functions of TeaCache, EasyCache and DiCache for Wan out of the authors' scripts and runs each on
a toy model: latents [4, 2, 4, 4], two blocks whose output follows the scripted velocity. Written down per step and
branch: the sums that the method looks at, and whether the last block ran. Sums are of the tensors that the authors'
code compares, in float64.

    tools/golden_authors.py --teacache teacache_generate.py --easycache easycache_generate.py \\
        --dicache run_wan_dicache.py

with the scripts of github.com/ali-vilab/TeaCache (TeaCache4Wan2.1), H-EmbodVis/EasyCache (EasyCache4Wan2.1) and
Bujiazi/DiCache (WAN2.1). Needs torch.
"""

import argparse
import ast
import contextlib
import json
import types

import numpy as np
import torch

SHAPE = (4, 2, 4, 4)  # channels, frames, height, width of the latent
POLYNOMIAL = [2.39676752e03, -1.31110545e03, 2.01331979e02, -8.29855975e00, 1.37887774e-01]  # Wan 1.3B, normal


def take_function(path, name):
    """One function of a script, without running the script."""
    with open(path, encoding="utf-8") as source:
        tree = ast.parse(source.read())
    wanted = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    module = ast.Module(body=wanted, type_ignores=[])
    names = {
        "torch": torch,
        "np": np,
        "amp": types.SimpleNamespace(autocast=lambda **_: contextlib.nullcontext()),
        "sinusoidal_embedding_1d": lambda dim, t: t.reshape(1, 1).expand(1, dim),
    }
    exec(compile(module, path, "exec"), names)  # pylint: disable=exec-used
    return names[name]


class Embedding:
    """Latent to tokens, unchanged: [1, channels, frames, height, width]."""

    weight = torch.zeros(1)

    def __call__(self, latent):
        return latent


class Toy(types.SimpleNamespace):
    """What the authors' forward functions expect of a Wan model."""

    def __init__(self, **given):
        super().__init__(
            model_type="t2v", patch_embedding=Embedding(), freqs=torch.zeros(1), freq_dim=4, dim=4, text_len=2, **given
        )
        self.cnt = 0
        self.ran = 0
        self.blocks = [self.first_block, self.last_block]

    def time_embedding(self, t):
        return torch.stack([torch.cos(t[0, 0] / 300), torch.sin(t[0, 0] / 300), t[0, 0] / 1000, torch.ones(())])[None]

    def time_projection(self, e):
        return e.repeat(1, 6)

    def text_embedding(self, context):
        return context

    def head(self, x, e):
        return x

    def unpatchify(self, x, grids):
        return [x[0].T.reshape(SHAPE)]

    def first_block(self, x, **_):
        self.probe = x + 0.3 * torch.tanh(self.force + x)
        return self.probe

    def last_block(self, x, **_):
        self.ran += 1
        return x + self.force + 0.5 * torch.sin(x)


def walk(forward, toy, steps, seed, look):
    """Runs the sampler; look(branch, latent, velocity, ran) gives the numbers of a step."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(SHAPE, generator=generator)
    forces = torch.randn(2, 3, 32, 4, generator=generator)
    rows = [[], []]
    for step in range(steps):
        u = step / steps
        t = torch.tensor([1000.0 * (1 - u)])
        velocities = []
        for branch in (0, 1):
            toy.force = forces[branch][0] + u * forces[branch][1] + u * u * (3 * forces[branch][2])
            before = toy.ran
            output = forward(toy, [latent.clone()], t, [torch.zeros(2, 4)], 32)[0]
            rows[branch].append(look(toy, branch, latent, output, toy.ran > before) | {"step": step})
            velocities.append(output)
        latent = latent - (velocities[1] + 3 * (velocities[0] - velocities[1])) / (4 * steps)
    return rows


def l1(a, b=None):
    a = a.double()
    return float((a if b is None else a - b.double()).abs().sum())


def relative(a, b):
    return l1(a, b) / l1(b)


def teacache_case(forward, steps, threshold, retention):
    toy = Toy(
        enable_teacache=True,
        use_ref_steps=retention,
        coefficients=POLYNOMIAL,
        teacache_thresh=threshold,
        ret_steps=10 if retention else 2,
        cutoff_steps=steps * 2 - (0 if retention else 2),
        num_steps=steps * 2,
        accumulated_rel_l1_distance_even=0,
        accumulated_rel_l1_distance_odd=0,
    )
    last = {}

    def look(model, branch, latent, output, ran):
        e = model.time_embedding(torch.tensor([[1000.0 * (1 - (model.cnt - 1) % (2 * steps) // 2 / steps)]]))
        numbers = {"ran": ran, "time": relative(e, last[branch]) if branch in last else 0.0}
        last[branch] = e
        return numbers

    toy.num_steps = 10**9  # the counter must not wrap before `look`
    rows = walk(forward, toy, steps, 1, look)
    return {"steps": steps, "threshold": threshold, "retention": int(retention), "branches": rows}


def easycache_case(forward, steps, threshold, first, seed):
    toy = Toy(thresh=threshold, ret_steps=first * 2, cutoff_steps=steps * 2 - 2, num_steps=10**9, k=None)
    last = [{}, {}]

    def look(model, branch, latent, output, ran):
        seen = last[branch]
        numbers = {"ran": ran, "latent": 0.0, "drift": 0.0, "output": 0.0, "velocity": l1(output)}
        if seen:
            numbers["latent"] = l1(latent, seen["latent"])
            numbers["drift"] = l1(latent, seen["computed"])
            numbers["output"] = l1(output, seen["output"])
        seen["latent"] = latent
        if ran:
            seen["computed"], seen["output"] = latent, output
        return numbers

    rows = walk(forward, toy, steps, seed, look)
    return {"steps": steps, "threshold": threshold, "first": first, "branches": rows[:1]}


def dicache_case(forward, steps, threshold, retention, seed):
    pair = lambda: [None, None]  # noqa: E731
    toy = Toy(
        probe_depth=1,
        num_steps=steps * 2,
        rel_l1_thresh=threshold,
        ret_ratio=retention,
        accumulated_rel_l1_distance=[0.0, 0.0],
        residual_cache=pair(),
        probe_residual_cache=pair(),
        residual_window=[[], []],
        probe_residual_window=[[], []],
        previous_internal_states=pair(),
        previous_input=pair(),
        previous_output=pair(),
        resume_flag=[False, False],
    )
    last = [{"computed": []}, {"computed": []}]

    def look(model, branch, latent, output, ran):
        seen = last[branch]
        tokens = latent.flatten(1).T[None]
        probe, whole = model.probe, output.flatten(1).T[None] - tokens
        q = probe - tokens
        numbers = {"ran": ran, "probe": 0.0, "older": 0.0, "between": 0.0, "gamma": 1.0}
        if "probe" in seen:
            numbers["probe"] = relative(probe, seen["probe"])
        if len(seen["computed"]) > 1:
            (r1, q1), (r2, q2) = seen["computed"][-1], seen["computed"][-2]
            numbers["older"], numbers["between"] = l1(q, q2), l1(q1, q2)
            if not ran:  # what the authors' code really added: R_2 + gamma (R_1 - R_2)
                numbers["gamma"] = float(((whole - r2) * (r1 - r2)).sum() / ((r1 - r2) ** 2).sum())
        seen["probe"] = probe
        if ran:
            seen["computed"].append((whole, q))
        return numbers

    rows = walk(forward, toy, steps, seed, look)
    if int(steps * 2 * retention) % 2:
        rows = rows[:1]  # calls are counted: the other branch is probed a step earlier, which we do not follow
    return {"steps": steps, "threshold": threshold, "retention": retention, "branches": rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("teacache", "easycache", "dicache"):
        parser.add_argument(f"--{name}", required=True, help="the authors' script")
    parser.add_argument("--out", default="tests/golden/cache/authors.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tea = take_function(args.teacache, "teacache_forward")
    easy = take_function(args.easycache, "easycache_forward")
    di = take_function(args.dicache, "dicache_forward")
    with torch.no_grad():
        data = {
            "polynomial": POLYNOMIAL,
            "teacache": [teacache_case(tea, n, r, m) for n in (20, 50) for r in (0.2, 0.6) for m in (False, True)],
            "easycache": [easycache_case(easy, n, r, f, s) for s, (n, r, f) in enumerate(
                [(20, 0.05, 10), (20, 0.2, 3), (30, 0.1, 2), (30, 0.4, 5), (12, 0.3, 1)])],
            "dicache": [dicache_case(di, n, r, a, s) for s, (n, r, a) in enumerate(
                [(20, 0.08, 0.2), (20, 0.2, 0.1), (30, 0.15, 0.2), (13, 0.3, 0.15)])],
        }
    for cases in (data["teacache"], data["easycache"], data["dicache"]):
        for case in cases:
            for rows in case["branches"]:
                for row in rows:
                    row.pop("step")
                    row["ran"] = int(row["ran"])
    text = json.dumps(data, separators=(",", ":"))
    data = json.loads(text, parse_float=lambda x: float(f"{float(x):.9g}"))
    with open(args.out, "w", encoding="utf-8") as out:
        json.dump(data, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    main()
