"""Golden data of cached runs: what cache-dit, diffusers' hooks and the authors' rules decide on our checkpoints, and where
their runs end.

tests/golden/cache/runs.json lists the runs: every option of the job, its caching in our own text, the tables it needs, and
per branch one letter per step (C computed, R reused) and what was compared with the threshold (null: nothing was, or the
library does not say). cache/runs.safetensors beside it holds the last latents, "NAME" cached and "REQUEST.uncached" not.

Runs whose threshold was passed by less than MARGIN somewhere are refused: other rounding could then decide otherwise. A
run with "differs" is one where we depart on purpose: verdicts are equal before step `differs`, and not at it; its latents
are not compared. Where two sources claim the same rule both are run, and must agree.
"""
from __future__ import annotations

import dataclasses
import json
import pathlib

import reference_cache as rivals
import reference_pipeline as reference
from reference_pipeline import Request

MARGIN = 1e-4
REFERENCE, A, B, C = "models/reference", "tests/models/tiny-a", "tests/models/tiny-b", "tests/models/tiny-c"
STAR = "a large red star spinning on a navy background"
RING = "a small purple ring bouncing on a gray background"

REQUESTS = {
    "star": Request(REFERENCE, STAR, seed=7, steps=20, guidance=4.0, width=64, height=64, frames=17),
    "triangle": Request(REFERENCE, "a green triangle growing on a white background", negative="a blue square, gray background",
                        seed=2**32 + 5, steps=30, guidance=5.0, width=64, height=64, frames=17, shift=5.0),
    "scm": Request(REFERENCE, STAR, seed=3, steps=28, guidance=5.0, width=64, height=64, frames=17),
    "ring": Request(REFERENCE, RING, seed=42, steps=24, guidance=1.0, width=80, height=48, frames=9, solver="euler"),
    "tiny-a": Request(A, RING, negative="blurry", seed=5, steps=20, guidance=3.0, width=80, height=48, frames=9),
    "tiny-b": Request(B, RING, seed=2, steps=20, guidance=2.0, width=64, height=32, frames=5, solver="euler", shift=1.0),
    "tiny-c": Request(C, STAR, seed=3, steps=20, guidance=4.0, width=48, height=32, frames=9),
}


@dataclasses.dataclass
class Case:
    request: str
    cache: str  # our text
    by: str
    options: dict
    threshold: float | None = None
    also: tuple[str, dict] | None = None  # another source of the same rule
    tables: dict[str, list[float]] = dataclasses.field(default_factory=dict)  # kind to values
    differs: str | None = None  # why, if we depart


def dit(request: str, cache: str, F: int, B: int, W: int, R: float, calibrator: dict | None = None, mask=None, differs=None, **more) -> Case:
    options = {"Fn_compute_blocks": F, "Bn_compute_blocks": B, "max_warmup_steps": W, "residual_diff_threshold": R, **more}
    if calibrator:
        options["calibrator"] = calibrator
    if mask:
        options["mask"] = mask
    return Case(request, cache, "cache-dit", options, R, differs=differs)


def first_block(request: str, threshold: float) -> Case:
    return Case(request, f"fbcache:threshold={threshold}", "diffusers", {"hook": "FirstBlockCacheConfig", "threshold": threshold}, threshold)


def magnitude(request: str, threshold: float, K: int, R: float) -> Case:
    r = REQUESTS[request]
    ratios = [round(x, 5) for x in rivals.residual_ratios(r)]
    options = {"hook": "MagCacheConfig", "threshold": threshold, "max_skip_steps": K, "retention_ratio": R, "mag_ratios": ratios,
               "num_inference_steps": r.steps}
    return Case(request, f"magcache:threshold={threshold},K={K},R={R}", "rule",
                {"rule": "magcache", "threshold": threshold, "K": K, "R": R, "ratios": ratios}, threshold, also=("diffusers", options),
                tables={"magcache": ratios})


TEA = [0.5, -0.4, 0.3, 0.1, 0.01]  # made up, as bent as the published ones
TEA_PROJECTION = [-30.0, 8.0, 1.5, 0.7, 0.002]

DMD_MASK = "111111" + "001111" * 4


def cases() -> dict[str, Case]:
    taylor = {"kind": "taylorseer", "n_derivatives": 1}
    return {
        "dbcache-r12": dit("star", "dbcache:F1B0,W4,threshold=0.12", 1, 0, 4, 0.12),
        "dbcache-r08": dit("triangle", "dbcache:F1B0_W4_R0.08", 1, 0, 4, 0.08),
        "dbcache-r24-taylor1": dit("star", "dbcache:F1B0_W4_MC3_R0.24,forecast=taylor1", 1, 0, 4, 0.24, taylor, max_continuous_cached_steps=3),
        "dbcache-r12-taylor1": dit("triangle", "dbcache:F1B0_W4_R0.12,forecast=taylor1", 1, 0, 4, 0.12, taylor),
        "dbcache-r24-taylor2": dit("triangle", "dbcache:F1B0_W5I2_M9MC2_R0.24,forecast=taylor2,forecast.from=3", 1, 0, 5, 0.24,
                                   {"kind": "taylorseer", "n_derivatives": 2}, warmup_interval=2, max_cached_steps=9, max_continuous_cached_steps=2),
        "dbcache-f4b2": dit("ring", "dbcache:F4B2_W4_R0.15", 4, 2, 4, 0.15),
        "dbcache-tied": dit("triangle", "dbcache:F2B1_W3_R0.13,separate=0", 2, 1, 3, 0.13, cfg_diff_compute_separate=False),
        "dbcache-always": dit("star", "dbcache:F1B0_W6_MC1_R1", 1, 0, 6, 1.0, max_continuous_cached_steps=1),
        "dbcache-foca": dit("triangle", "dbcache:F1B0_W4_MC2_R0.24,forecast=foca,forecast.spacing=0,forecast.slots=16", 1, 0, 4, 0.24,
                            {"kind": "foca"}, max_continuous_cached_steps=2),
        # Reused only after four evenly spaced steps: before that cache-dit's stand-in has a defect that is mended here.
        "dbcache-dmd": dit("triangle", f"dbcache:F1B0_W6,static=1,mask={DMD_MASK},forecast=dmd", 1, 0, 6, 1.0, {"kind": "dmd"},
                           mask=[int(c) for c in DMD_MASK], steps_computation_policy="static"),
        "scm-medium-dynamic": dit("scm", "dbcache:F1B0_W8_R0.2,mask=scm-medium", 1, 0, 8, 0.2, mask="medium"),
        "scm-fast-static": dit("triangle", "dbcache:F1B0_W8_R0.08,static=1,mask=scm-fast,forecast=taylor1", 1, 0, 8, 0.08, taylor, mask="fast",
                               steps_computation_policy="static"),
        "dbcache-accumulated": dit("triangle", "dbcache:F1B0_W4_R0.24,max_accumulated=2", 1, 0, 4, 0.24,
                                   max_accumulated_residual_diff_threshold=2.0,
                                   differs="cache-dit adds up the changes of computed steps too and never starts again"),
        "dbprune": Case("triangle", "dbprune:F1B1_W4_R0.2", "cache-dit", {"prune": True, "Fn_compute_blocks": 1, "Bn_compute_blocks": 1,
                                                                          "max_warmup_steps": 4, "residual_diff_threshold": 0.2}),
        "fbcache-10": first_block("star", 0.1),
        "fbcache-05": first_block("triangle", 0.05),
        "fbcache-20": first_block("ring", 0.2),
        "magcache-12": magnitude("star", 0.12, 4, 0.2),
        "magcache-06": magnitude("ring", 0.06, 2, 0.1),
        "teacache": Case("star", "teacache:threshold=0.11", "rule", {"rule": "teacache", "threshold": 0.11, "polynomial": TEA}, 0.11,
                         tables={"teacache": TEA}),
        "teacache-retention": Case("triangle", "teacache:threshold=0.12,retention=1", "rule",
                                   {"rule": "teacache", "threshold": 0.12, "polynomial": TEA_PROJECTION, "retention": True}, 0.12,
                                   tables={"teacache": TEA, "teacache-retention": TEA_PROJECTION}),
        "easycache": Case("star", "easycache:threshold=0.1,first=5", "rule", {"rule": "easycache", "threshold": 0.1, "first": 5}, 0.1),
        "easycache-one-branch": Case("ring", "easycache:threshold=0.05,first=4,last=2", "rule",
                                     {"rule": "easycache", "threshold": 0.05, "first": 4, "last": 2}, 0.05),
        "seacache": Case("star", "seacache:threshold=0.3", "rule", {"rule": "seacache", "threshold": 0.3}, 0.3),
        "dicache": Case("star", "dicache:threshold=0.3", "rule", {"rule": "dicache", "threshold": 0.3, "own_probe": True}, 0.3),
        "zeus": Case("star", "zeus:first=5,last=2,late=0", "rule", {"rule": "zeus", "acc_range": (4, 17), "late": 0}),
        "zeus-late": Case("ring", "zeus:denominator=2,skip=1,phase=1,first=4,last=2,late=13,late_interval=5", "rule",
                          {"rule": "zeus", "denominator": 2, "modular": (1,), "acc_range": (3, 21), "late": 13, "late_interval": 5}),
        "interval-taylor2": Case("triangle", "interval:N=4,first=3,forecast=taylor2", "rule",
                                 {"rule": "interval", "interval": 4, "first": 3, "order": 2}),
        "interval-f2b1": Case("ring", "interval:N=3,first=1,F=2,B=1", "rule", {"rule": "interval", "interval": 3, "first": 1, "head": 2, "tail": 1}),
        "mask": Case("star", "mask:mask=0-4+6+9+12+15+18+19", "rule", {"rule": "mask", "computed": [0, 1, 2, 3, 4, 6, 9, 12, 15, 18, 19]}),
        "tiny-a-dbcache": dit("tiny-a", "dbcache:F1B0_W2_R0.21", 1, 0, 2, 0.21),
        "tiny-b-fbcache": first_block("tiny-b", 0.22),
        "tiny-c-easycache": Case("tiny-c", "easycache:threshold=0.8,first=3", "rule", {"rule": "easycache", "threshold": 0.8, "first": 3}, 0.8),
    }


def margin_of(case: Case, cached: rivals.Cached) -> float | None:
    if case.threshold is None or case.threshold >= 1:
        return None
    return min((abs(c - case.threshold) for c in cached.changes.values()), default=None)


def agree(name: str, case: Case, cached: rivals.Cached) -> None:
    by, options = case.also
    other = rivals.run_by(by, REQUESTS[case.request], options)
    distance = reference.relative_l2(other.result.latents, cached.result.latents)
    if other.verdicts != cached.verdicts or distance > 1e-6:
        raise SystemExit(f"golden: {name}: {by} disagrees ({distance:.1e}): {other.verdicts} {cached.verdicts}")


def unlimited(case: Case) -> rivals.Cached:
    """The run of a departure without the limit that is at fault: where that one first reuses again is where we differ."""
    options = {k: v for k, v in case.options.items() if k != "max_accumulated_residual_diff_threshold"}
    return rivals.run_by(case.by, REQUESTS[case.request], options)


def entry(name: str, case: Case, cached: rivals.Cached, resolved: Request) -> dict:
    row = {"name": name, **dataclasses.asdict(resolved), "uncached": f"{case.request}.uncached", "cache": case.cache, "by": case.by,
           "options": case.options, "threshold": case.threshold, "margin": margin_of(case, cached), "verdicts": cached.verdicts,
           "changes": [[c if c is None else round(c, 7) for c in r] for r in cached.change_rows()]}
    if case.tables:
        row["tables"] = [{"kind": k, "values": v, "width": len(v) if k.startswith("teacache") else 1} for k, v in case.tables.items()]
    if case.differs:
        free = unlimited(case)
        steps = [min(i for i, (a, b) in enumerate(zip(x, y)) if a != b) for x, y in zip(free.verdicts, cached.verdicts)]
        row |= {"differs": min(steps), "why": case.differs}
    return row


def make(out_dir: pathlib.Path) -> None:
    import golden_pipeline

    rows, latents = [], {}
    for name, case in cases().items():
        request = REQUESTS[case.request]
        if f"{case.request}.uncached" not in latents:
            latents[f"{case.request}.uncached"] = reference.run(reference.load(request.model), request).latents
        cached = rivals.run_by(case.by, request, case.options)
        row = entry(name, case, cached, golden_pipeline.resolved(request))
        close = row["margin"] is not None and row["margin"] < MARGIN
        if case.also:
            agree(name, case, cached)
        rows.append(row)
        if not case.differs:
            latents[name] = cached.result.latents
        print(f"golden   {name:22} {' '.join(cached.verdicts)}  margin {row['margin'] or 0:.4f}", flush=True)
        if close:
            raise SystemExit(f"golden: {name}: decided by {row['margin']:.1e}, choose another threshold")
    directory = out_dir / "cache"
    directory.mkdir(parents=True, exist_ok=True)
    import cache_dit

    made = {**reference.versions(), "cache_dit": cache_dit.__version__}
    text = ",\n".join(json.dumps(row) for row in rows)
    (directory / "runs.json").write_text(f'{{"made_by": {json.dumps(made)}, "runs": [\n{text}\n]}}\n')
    reference.save(directory / "runs.safetensors", latents, made)


if __name__ == "__main__":
    make(pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden")
