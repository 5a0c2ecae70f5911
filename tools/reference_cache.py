#!/usr/bin/env python3
"""Cached runs of the reference pipeline by other people's rules: cache-dit, diffusers' own hooks, and the authors' rules
re-run on diffusers' model.

    tools/reference_cache.py --model models/reference --prompt "a red circle" --steps 20 --guidance 4 \
        --width 64 --height 64 --frames 17 --by cache-dit --options '{"Fn_compute_blocks": 1, "max_warmup_steps": 4}'
    tools/reference_cache.py ... --by diffusers --options '{"hook": "FirstBlockCacheConfig", "threshold": 0.1}'
    tools/reference_cache.py ... --by rule --options '{"rule": "easycache", "threshold": 0.1, "first": 5}'

prints which steps were computed (C) and reused (R) in each branch and what was measured, and writes the latents. cache-dit
and diffusers run as their packages come, in their own process-wide ways: every run takes a freshly loaded pipeline. The
rules are ours after the authors' code (reference_rules.py). Everything is float32, on the CPU.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import pathlib
import sys
import time

import torch

import reference_pipeline as reference
from reference_pipeline import Request, Result
from reference_rules import RULES, Job, Mask, Parts


@dataclasses.dataclass
class Cached:
    result: Result
    layers: int
    branches: int
    ran: list[int] = dataclasses.field(default_factory=list)  # blocks run, by call of the model
    changes: dict[tuple[int, int], float] = dataclasses.field(default_factory=dict)  # (step, branch): compared with the threshold
    seconds: float = 0.0  # of the whole pipeline call

    @property
    def verdicts(self) -> list[str]:
        """One text per branch, one letter per step: Computed, Reused."""
        return ["".join("C" if n == self.layers else "R" for n in self.ran[b :: self.branches]) for b in range(self.branches)]

    def change_rows(self) -> list[list[float | None]]:
        steps = len(self.ran) // self.branches
        return [[self.changes.get((i, b)) for i in range(steps)] for b in range(self.branches)]


def branches_of(request: Request) -> int:
    return 2 if request.guidance > 1 else 1


def fresh(model: str):
    """A pipeline of its own: both packages leave traces in the ones they patch."""
    return reference.load.__wrapped__(model)


class Counter:
    """Counts the blocks that really run, whoever decides about them."""

    def __init__(self, transformer):
        self.calls: list[int] = []
        self.handles = [transformer.register_forward_pre_hook(self.call)]
        self.handles += [block.attn1.register_forward_pre_hook(self.block) for block in transformer.blocks]

    def call(self, _module, _args):
        self.calls.append(0)

    def block(self, _module, _args):
        self.calls[-1] += 1

    def remove(self):
        for handle in self.handles:
            handle.remove()


def measured_run(pipe, request: Request, changes: dict | None = None, after=None) -> Cached:
    counter = Counter(pipe.transformer)
    began = time.perf_counter()
    try:
        result = reference.run(pipe, request, after=after)
    finally:
        counter.remove()
    return Cached(result, pipe.transformer.config.num_layers, branches_of(request), counter.calls, changes if changes is not None else {},
                  time.perf_counter() - began)


# ------------------------------------------------------------------------------------------------------------ cache-dit


def run_cache_dit(request: Request, options: dict, calibrator: dict | None = None, mask: list[int] | str | None = None) -> Cached:
    """options: of DBCacheConfig, or with "prune" of DBPruneConfig. calibrator: {"kind": "taylorseer" | "dmd" | "foca", ...its
    arguments}. mask: 0/1 per step, or the name of a policy of steps_mask."""
    import cache_dit
    from cache_dit.caching.cache_contexts.calibrators import CalibratorConfig

    options = {"enable_separate_cfg": branches_of(request) == 2, **options}
    if mask is not None:
        named = isinstance(mask, str)
        options["steps_computation_mask"] = cache_dit.steps_mask(mask_policy=mask, total_steps=request.steps) if named else mask
    prune = options.pop("prune", False)
    config = (cache_dit.DBPruneConfig if prune else cache_dit.DBCacheConfig)(**options)
    extra = {}
    if calibrator:
        arguments = {k: v for k, v in calibrator.items() if k != "kind"}
        extra["calibrator_config"] = CalibratorConfig(enable_calibrator=True, calibrator_type=calibrator["kind"], calibrator_kwargs=arguments)
    pipe = fresh(request.model)
    with contextlib.redirect_stdout(io.StringIO()):
        cache_dit.enable_cache(pipe, cache_config=config, **extra)
        try:
            cached = measured_run(pipe, request)
            (context,) = pipe._context_manager._cached_context_manager.values()
            diffs = [context.get_residual_diffs(), context.get_cfg_residual_diffs()]
        finally:
            cache_dit.disable_cache(pipe)
    for branch, by_step in enumerate(diffs[: cached.branches] if not prune else []):  # DBPrune has one for each block
        cached.changes |= {(int(step), branch): float(d) for step, d in by_step.items() if d >= 0}
    return cached


# ------------------------------------------------------------------------------------------------------------ diffusers


@contextlib.contextmanager
def first_block_changes():
    """What FirstBlockCache compared with its threshold, call by call of the model; None where there was nothing yet."""
    from diffusers.hooks import first_block_cache

    log: list[float | None] = []
    decide = first_block_cache.FBCHeadBlockHook._should_compute_remaining_blocks

    def logged(self, residual):
        before = self.state_manager.get_state().head_block_residual
        log.append(None if before is None else ((residual - before).abs().mean() / before.abs().mean()).item())
        return decide(self, residual)

    first_block_cache.FBCHeadBlockHook._should_compute_remaining_blocks = logged
    try:
        yield log
    finally:
        first_block_cache.FBCHeadBlockHook._should_compute_remaining_blocks = decide


def run_diffusers(request: Request, options: dict) -> Cached:
    """options: "hook", the name of one of diffusers' cache configurations, and its arguments."""
    from diffusers import hooks

    options = dict(options)
    config = getattr(hooks, options.pop("hook"))(**options)
    pipe = fresh(request.model)
    with first_block_changes() as log:
        pipe.transformer.enable_cache(config)
        cached = measured_run(pipe, request)
    cached.changes = {divmod(call, cached.branches): change for call, change in enumerate(log) if change is not None}
    return cached


# -------------------------------------------------------------------------------------------------- the authors' rules


def run_rule(request: Request, options: dict | None) -> Cached:
    """options: "rule", a name of RULES, and its arguments. None: everything computed, but by this file's forward."""
    pipe = reference.load(request.model)
    model = pipe.transformer
    job = Job(request.steps, branches_of(request), request.guidance, model.config.num_layers)
    options = {"rule": "mask", "computed": range(request.steps)} if options is None else dict(options)
    rule = RULES[options.pop("rule")](job, **options)
    calls = 0

    def forward(hidden_states, timestep, encoder_hidden_states, **_):
        nonlocal calls
        step, branch = divmod(calls, job.branches)
        calls += 1
        parts = Parts(model, hidden_states, timestep, encoder_hidden_states, float(pipe.scheduler.sigmas[step]))
        return (rule.velocity(step, branch, parts),)

    model.forward = forward
    try:
        return measured_run(pipe, request, rule.changes)
    finally:
        del model.forward


@torch.no_grad()
def residual_ratios(request: Request) -> list[float]:
    """MagCache's table: mean over tokens of ||R_i|| / ||R_i-1|| of the conditional branch, 1 for the first step."""
    kept = []

    class Watch(Mask):
        def push(self, step, branch, residual):
            super().push(step, branch, residual)
            if branch == 0:
                kept.append(residual[0])

    RULES["watch"] = Watch
    try:
        run_rule(request, {"rule": "watch", "computed": range(request.steps)})
    finally:
        del RULES["watch"]
    return [1.0] + [(b.norm(dim=-1) / a.norm(dim=-1)).mean().item() for a, b in zip(kept, kept[1:])]


# --------------------------------------------------------------------------------------------------------------- program


def run_by(by: str, request: Request, options: dict) -> Cached:
    if by == "cache-dit":
        options = dict(options)
        calibrator, mask = options.pop("calibrator", None), options.pop("mask", None)
        return run_cache_dit(request, options, calibrator, mask)
    return run_diffusers(request, options) if by == "diffusers" else run_rule(request, options)


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], argument_default=argparse.SUPPRESS)
    for field in dataclasses.fields(Request):
        kind = {"int": int, "float": float, "float | None": float}.get(field.type, str)
        p.add_argument(f"--{field.name}", type=kind, required=field.name in ("model", "prompt"))
    p.add_argument("--by", choices=["cache-dit", "diffusers", "rule"], required=True)
    p.add_argument("--options", type=json.loads, default={}, metavar="JSON")
    p.add_argument("--save-latents", type=pathlib.Path, default=None)
    a = p.parse_args()
    request = Request(**{k: v for k, v in vars(a).items() if k in Request.__dataclass_fields__})
    cached = run_by(a.by, request, a.options)
    for branch, (verdicts, changes) in enumerate(zip(cached.verdicts, cached.change_rows())):
        print(f"branch {branch}  {verdicts}  {verdicts.count('C')} computed")
        print("          " + " ".join("-" if c is None else f"{c:.4f}" for c in changes))
    print(f"{cached.seconds:.2f} s")
    if a.save_latents:
        reference.save(a.save_latents, {"latents": cached.result.latents}, {"by": a.by, "options": a.options})
    return 0


if __name__ == "__main__":
    sys.exit(main())
