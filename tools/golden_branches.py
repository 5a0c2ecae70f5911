"""Golden data of runs that change on the way: guidance, words or caching become others after a step, in diffusers' own
loop, by its callback_on_step_end. That is what a job does that goes on from another one's checkpoint.

tests/golden/branches.json lists them: every option of the run as it begins, "at", the steps made that way, and "changed", what
holds for the steps after it. branches.safetensors beside it holds

    NAME             [1, C, T, h, w]    the last latents
    NAME.at          [1, C, T, h, w]    the latents after step `at`: the unchanged run's

and with caching, by diffusers' own hook, "verdicts" of each branch: C computed, R reused, one letter per step.

How a scale of guidance changes: the loop holds it in a local variable, so it is given as a tensor of one value, which the
callback overwrites; whether there is guidance at all the loop asks of the pipeline each time. Words: the callback returns
what the pipeline's own encode_prompt makes of the others. Runs are refused whose end would hardly tell the change, or that it
came a step too early or too late.
"""
from __future__ import annotations

import dataclasses
import json
import pathlib

import torch

import reference_cache as rivals
import reference_pipeline as reference
from golden_pipeline import A, B, C, REFERENCE, RING, STAR
from reference_pipeline import Request

D = "tests/models/tiny-d"
MARGIN = 1e-3  # relative L2: ten times what a test allows
HOOK_MARGIN = 1e-4  # of what is compared with a hook's threshold


@dataclasses.dataclass
class Case:
    request: Request
    at: int
    changed: dict[str, object]
    first_block: tuple[float | None, float | None] = (None, None)  # thresholds of FirstBlockCache before and after; None: none


def small(model: str, prompt: str, seed: int, **more) -> Request:
    return Request(model, prompt, seed=seed, **{"steps": 10, "guidance": 4.0, "width": 32, "height": 32, "frames": 9} | more)


CASES = {
    "guidance": Case(small(REFERENCE, STAR, 7), 4, {"guidance": 6.5}),
    "guidance-euler": Case(small(A, RING, 5, solver="euler", negative="blurry", guidance=3.0), 3, {"guidance": 9.0}),
    "guidance-first-step": Case(small(B, RING, 6, steps=6), 1, {"guidance": 1.5}),
    "guidance-last-step": Case(small(C, STAR, 3, steps=6, solver="unipc"), 5, {"guidance": 20.0}),
    "guidance-off": Case(small(REFERENCE, STAR, 8, negative=RING), 5, {"guidance": 1.0}),
    "guidance-on": Case(small(B, STAR, 9, guidance=1.0), 4, {"guidance": 5.0, "negative": RING}),
    "prompt": Case(small(REFERENCE, STAR, 10), 3, {"prompt": RING}),
    "prompt-tiny": Case(small(A, STAR, 11, solver="unipc"), 6, {"prompt": "a green square moving right"}),
    "negative": Case(small(C, STAR, 12, guidance=6.0), 2, {"negative": RING}),
    "everything": Case(small(B, STAR, 13, steps=12, negative="blurry"), 5, {"prompt": RING, "negative": STAR, "guidance": 2.5}),
    # Two experts: before the second one's turn, and within it.
    "experts-before": Case(small(D, STAR, 14, steps=8, guidance_2=3.0, frames=5), 2, {"guidance": 6.0, "guidance_2": 5.0}),
    "experts-within": Case(small(D, RING, 15, steps=8, guidance_2=3.0, frames=5), 6, {"prompt": STAR, "guidance_2": 7.0}),
    # Caching from the step on; up to it; another threshold.
    "cache-on": Case(small(REFERENCE, STAR, 16, steps=14), 4, {"cache": "fbcache:threshold=0.15"}, (None, 0.15)),
    "cache-off": Case(small(REFERENCE, RING, 17, steps=14), 7, {"cache": "off"}, (0.15, None)),
    "cache-other": Case(small(B, RING, 18, steps=14, solver="euler"), 6, {"cache": "fbcache:threshold=0.3", "guidance": 5.0}, (0.2, 0.3)),
}


def text_of(threshold: float | None) -> str:
    return "off" if threshold is None else f"fbcache:threshold={threshold}"


class Changing:
    """What the callback does: after step `at` the scales of guidance are overwritten, words encoded, the hook exchanged."""

    def __init__(self, case: Case, at: int):
        r = case.request
        self.case, self.at = case, at
        self.scale = torch.tensor(r.guidance)
        self.scale_2 = None if r.guidance_2 is None else torch.tensor(r.guidance_2)

    def request(self) -> Request:
        return dataclasses.replace(self.case.request, guidance=self.scale, guidance_2=self.scale_2)

    def __call__(self, pipe, index: int) -> dict[str, torch.Tensor]:
        if index + 1 != self.at:
            return {}
        changed, before = self.case.changed, self.case.request
        if "guidance" in changed:
            self.scale.fill_(changed["guidance"])
        if "guidance_2" in changed:
            self.scale_2.fill_(changed["guidance_2"])
        if self.case.first_block != (None, None):
            use_hook(pipe, *self.case.first_block)
        positive, negative = pipe.encode_prompt(changed.get("prompt", before.prompt), changed.get("negative", before.negative),
                                                do_classifier_free_guidance=True, max_sequence_length=reference.TEXT_LENGTH)
        return {"prompt_embeds": positive, "negative_prompt_embeds": negative}


def use_hook(pipe, before: float | None, after: float | None) -> None:
    from diffusers import hooks

    if before is not None:
        pipe.transformer.disable_cache()
    if after is not None:
        pipe.transformer.enable_cache(hooks.FirstBlockCacheConfig(threshold=after))


def run(case: Case, at: int) -> rivals.Cached:
    """at beyond the last step: nothing changes."""
    hooked = case.first_block != (None, None)
    pipe = rivals.fresh(case.request.model) if hooked else reference.load(case.request.model)
    changing = Changing(case, at)
    if hooked:
        use_hook(pipe, None, case.first_block[0])
    with rivals.first_block_changes() as log, torch.no_grad():
        cached = rivals.measured_run(pipe, changing.request(), after=changing)
    thresholds = [t for t in case.first_block if t is not None]
    close = [c for c in log if c is not None and any(abs(c - t) < HOOK_MARGIN for t in thresholds)]
    assert not close, f"a change of {close} is too near a threshold"
    return cached


def check(name: str, case: Case, made: rivals.Cached) -> None:
    """It can be told from the runs that a mistake would make."""
    for what, at in (("unchanged", case.request.steps + 1), ("one step early", case.at - 1), ("one step late", case.at + 1)):
        if at < 1 or at == case.request.steps or (at < case.request.steps and case.first_block != (None, None)):
            continue  # a hook's first step is computed anyway: its verdicts tell when it came
        other = run(case, at)
        far = reference.relative_l2(other.result.latents, made.result.latents)
        assert far > MARGIN, f"{name}: {what} is only {far:.1e} away"


def make(out_dir: pathlib.Path) -> None:
    runs, tensors = [], {}
    for name, case in CASES.items():
        own, shift = reference.solver_of(reference.load(case.request.model))
        request = dataclasses.replace(case.request, solver=case.request.solver or own, shift=shift if case.request.shift is None else case.request.shift)
        made = run(case, case.at)
        check(name, case, made)
        tensors |= {name: made.result.latents, f"{name}.at": made.result.steps[case.at - 1]}
        entry = {"name": name, **dataclasses.asdict(request), "at": case.at, "changed": case.changed}
        if case.first_block != (None, None):
            entry |= {"cache": text_of(case.first_block[0]), "verdicts": made.verdicts}
        runs.append(entry)
    reference.save(out_dir / "branches.safetensors", tensors)
    (out_dir / "branches.json").write_text(json.dumps({"made_by": reference.versions(), "runs": runs}, indent=1) + "\n")
