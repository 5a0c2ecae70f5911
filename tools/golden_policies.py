#!/usr/bin/env python3
"""Golden verdicts of caching rules: tests/golden/cache/rules.json, for tests/test_policies_golden.c.

Runs cache-dit's own classes (DBCache's and DBPrune's context managers) over scripted changes: every step's tensor
is its reference times (1 + change), so that the relative L1 the library measures is the scripted number. Options
and changes are drawn at random from a fixed seed; changes within 1e-3 of a threshold are moved away from it.

Limits that refrain mends (cache-dit's max_accumulated_residual_diff_threshold, DBPrune's limits of cached steps)
are left out. Needs cache-dit (written with 1.5.3) and torch.
"""

import argparse
import json
import logging
import random

import torch
from cache_dit.caching.cache_contexts import cache_manager, prune_manager
from cache_dit.caching.cache_contexts.cache_config import DBCacheConfig
from cache_dit.caching.cache_contexts.prune_config import DBPruneConfig


def away(change, thresholds):
    for t in thresholds:
        if abs(change - t) < 1e-3:
            change = t + 2e-3
    return round(change, 4)


def dbcache_case(rng):
    steps = rng.choice([1, 5, 12, 20, 28])
    threshold = rng.choice([0.0, 0.05, 0.08, 0.12, 0.24, 1.0])
    mask = None
    if rng.random() < 0.4:
        mask = [int(rng.random() < 0.5) for _ in range(steps)]
        mask[0] = 1
        for i in range(min(steps, rng.randrange(4))):
            mask[i] = 1
    case = {
        "steps": steps,
        "settings": {
            "threshold": threshold,
            "F": 1,
            "W": rng.choice([0, 1, 4, 8]),
            "I": rng.choice([1, 1, 1, 2, 3]),
            "M": rng.choice([-1, -1, 5, 12]),
            "MC": rng.choice([-1, -1, 1, 2, 3]),
            "separate": int(rng.random() < 0.7),
            "static": int(mask is not None and rng.random() < 0.4),
        },
        "mask": None if mask is None else "".join(map(str, mask)),
        "changes": [[away(rng.uniform(0, 0.3), [threshold]) for _ in range(steps)] for _ in range(2)],
    }
    case["verdicts"] = run_dbcache(case)
    return case


def run_dbcache(case):
    s = case["settings"]
    config = DBCacheConfig(
        Fn_compute_blocks=s["F"],
        residual_diff_threshold=s["threshold"],
        max_warmup_steps=s["W"],
        warmup_interval=s["I"],
        max_cached_steps=s["M"],
        max_continuous_cached_steps=s["MC"],
        enable_separate_cfg=True,
        cfg_diff_compute_separate=bool(s["separate"]),
        steps_computation_mask=None if case["mask"] is None else [int(c) for c in case["mask"]],
        steps_computation_policy="static" if s["static"] else "dynamic",
    )
    manager = cache_manager.CachedContextManager("golden")
    manager.new_context(name="blocks", cache_config=config)
    manager.set_context("blocks")
    verdicts = ["", ""]
    for step in range(case["steps"]):
        for branch in (0, 1):
            manager.mark_step_begin()
            reference = manager.get_Fn_buffer("Fn_residual")
            probe = torch.ones(1, 4, 4, dtype=torch.float64)
            if reference is not None:
                probe = reference * (1 + case["changes"][branch][step])
            if manager.can_cache(probe, prefix="Fn_residual"):
                manager.add_cached_step()
                verdicts[branch] += "R"
            else:
                manager.set_Fn_buffer(probe, prefix="Fn_residual")
                verdicts[branch] += "C"
    return verdicts


def dbprune_case(rng):
    steps, layers = rng.choice([5, 8, 12]), rng.choice([4, 8, 13])
    threshold = rng.choice([0.0, 0.05, 0.1, 1.0])
    front = rng.choice([1, 2])
    case = {
        "steps": steps,
        "layers": layers,
        "settings": {
            "threshold": threshold,
            "F": front,
            "B": rng.randrange(0, layers - front),
            "W": rng.choice([1, 3]),
            "dynamic": int(rng.random() < 0.6),
            "relax": rng.choice([1.25, 1.6]),
            "cap": rng.choice([0, 0.3]),
        },
        "changes": [
            [away(abs(rng.gauss(threshold % 1, 0.04)) + 1e-4, [threshold]) for _ in range(layers)]
            for _ in range(steps)
        ],
    }
    case["verdicts"] = run_dbprune(case)
    return case


def run_dbprune(case):
    s = case["settings"]
    config = DBPruneConfig(
        Fn_compute_blocks=s["F"],
        Bn_compute_blocks=s["B"],
        residual_diff_threshold=s["threshold"],
        max_warmup_steps=s["W"],
        enable_separate_cfg=False,
        enable_dynamic_prune_threshold=bool(s["dynamic"]),
        dynamic_prune_threshold_relax_ratio=s["relax"],
        max_dynamic_prune_threshold=s["cap"] or None,
    )
    manager = prune_manager.PrunedContextManager("golden")
    manager.new_context(name="blocks", cache_config=config)
    manager.set_context("blocks")
    protected = manager.get_non_prune_blocks_ids(case["layers"])
    verdicts = []
    for step in range(case["steps"]):
        manager.mark_step_begin()
        letters = ""
        for block in range(case["layers"]):
            name = f"{block}_Fn_original"
            reference = manager.get_Fn_buffer(name)
            hidden = torch.ones(1, 4, 4, dtype=torch.float64)
            if reference is not None:
                hidden = reference * (1 + case["changes"][step][block])
            if block not in protected and manager.can_prune(hidden, prefix=name):
                manager.add_pruned_step()
                letters += "R"
            else:
                manager.set_Fn_buffer(hidden, prefix=name)
                letters += "C"
        verdicts.append(letters)
    return verdicts


def make(out_dir):
    write(out_dir / "cache" / "rules.json", 40)


def write(path, cases):
    logging.disable(logging.WARNING)
    rng = random.Random(4)
    data = {
        "dbcache": [dbcache_case(rng) for _ in range(cases)],
        "dbprune": [dbprune_case(rng) for _ in range(cases)],
    }
    with open(path, "w", encoding="utf-8") as out:
        json.dump(data, out, separators=(",", ":"))
        out.write("\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="tests/golden/cache/rules.json")
    parser.add_argument("--cases", type=int, default=40)
    args = parser.parse_args()
    write(args.out, args.cases)


if __name__ == "__main__":
    main()
