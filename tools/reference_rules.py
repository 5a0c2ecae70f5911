"""The authors' caching rules, re-implemented for comparison: what their code does, over the pieces of diffusers' forward in
its order of operations. Each class names its source; tools/reference_cache.py runs them.
"""
from __future__ import annotations

import dataclasses
import math

import torch


class Parts:
    """One forward of a WanTransformer3DModel in pieces."""

    def __init__(self, model, latent, timestep, text, sigma: float):
        self.model, self.latent, self.sigma = model, latent, sigma
        self.rope = model.rope(latent)
        self.time, projection, self.text, _ = model.condition_embedder(timestep, text, None)  # [1, hidden]
        self.projection = projection.unflatten(1, (6, -1))  # [1, 6, hidden]

    @property
    def layers(self) -> int:
        return len(self.model.blocks)

    def embed(self):
        """[1, tokens, hidden]"""
        return self.model.patch_embedding(self.latent).flatten(2).transpose(1, 2).contiguous()

    def blocks(self, x, begin: int, end: int):
        for block in self.model.blocks[begin:end]:
            x = block(x, self.text, self.projection, self.rope)
        return x

    def first_input(self, x):
        """What block 0's attention sees: normalised and modulated."""
        block = self.model.blocks[0]
        shift, scale, *_ = (block.scale_shift_table + self.projection.float()).chunk(6, dim=1)
        return (block.norm1(x.float()) * (1 + scale) + shift).type_as(x)

    def head(self, x):
        """[1, C, T, h, w]"""
        shift, scale = (self.model.scale_shift_table + self.time.unsqueeze(1)).chunk(2, dim=1)
        x = self.model.proj_out((self.model.norm_out(x.float()) * (1 + scale) + shift).type_as(x))
        frames, height, width = self.lattice()
        x = x.reshape(1, frames, height, width, *self.model.config.patch_size, -1).permute(0, 7, 1, 4, 2, 5, 3, 6)
        return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)

    def lattice(self) -> tuple[int, int, int]:
        return tuple(n // p for n, p in zip(self.latent.shape[2:], self.model.config.patch_size))


def relative_l1(now, before) -> float:
    return ((now - before).abs().mean() / before.abs().mean()).item()


@dataclasses.dataclass
class Job:
    steps: int
    branches: int
    guidance: float
    layers: int


class Rule:
    """Makes the velocity of each branch at each step, computed or not. `changes` collects what was compared."""

    def __init__(self, job: Job):
        self.job = job
        self.changes: dict[tuple[int, int], float] = {}

    def velocity(self, step: int, branch: int, parts: Parts) -> torch.Tensor:
        raise NotImplementedError


class SpanRule(Rule):
    """What blocks [head, layers - tail) add is kept and added, forecast by TaylorSeer's differences (order 0: reuse)."""

    def __init__(self, job: Job, head: int = 0, tail: int = 0, order: int = 0):
        super().__init__(job)
        self.head, self.end, self.order = head, job.layers - tail, order
        self.terms = [[] for _ in range(job.branches)]  # derivatives at the last computed step
        self.at = [None] * job.branches  # which was that

    def reuses(self, step: int, branch: int, parts: Parts) -> bool:
        raise NotImplementedError

    def push(self, step, branch, residual):
        new = [residual]
        for before in self.terms[branch][: self.order]:
            new.append((new[-1] - before) / (step - self.at[branch]))
        self.terms[branch], self.at[branch] = new, step

    def forecast(self, step, branch):
        distance = step - self.at[branch]
        return sum(term * (distance**k / math.factorial(k)) for k, term in enumerate(self.terms[branch]))

    def velocity(self, step, branch, parts):
        reuses = self.reuses(step, branch, parts)
        x = parts.blocks(parts.embed(), 0, self.head)
        if reuses:
            x = x + self.forecast(step, branch)
        else:
            y = parts.blocks(x, self.head, self.end)
            self.push(step, branch, y - x)
            x = y
        return parts.head(parts.blocks(x, self.end, parts.layers))


class Interval(SpanRule):
    """TaylorSeer's schedule (arXiv 2503.06923): the first steps, then one in N."""

    def __init__(self, job, interval: int, first: int, **span):
        super().__init__(job, **span)
        self.interval, self.first = interval, first

    def reuses(self, step, branch, parts):
        return step >= self.first and self.at[branch] is not None and step - self.at[branch] < self.interval


class Mask(SpanRule):
    def __init__(self, job, computed: list[int], **span):
        super().__init__(job, **span)
        self.computed = set(computed)

    def reuses(self, step, branch, parts):
        return step not in self.computed


class Accumulating(SpanRule):
    """Changes from step to step are added up until the threshold is reached; the reference moves at every step."""

    def __init__(self, job, threshold: float, first: int = 1, last: int = 1, **span):
        super().__init__(job, **span)
        self.threshold, self.first, self.last = threshold, first, last
        self.sum = [0.0] * job.branches
        self.before = [None] * job.branches

    def signal(self, parts):
        raise NotImplementedError

    def estimate(self, change: float) -> float:
        return change

    def reuses(self, step, branch, parts):
        now, before = self.signal(parts), self.before[branch]
        self.before[branch] = now
        if step < self.first or step >= self.job.steps - self.last:
            self.sum[branch] = 0.0
            return False
        self.sum[branch] += self.estimate(relative_l1(now, before))
        self.changes[step, branch] = self.sum[branch]
        if self.sum[branch] < self.threshold:
            return True
        self.sum[branch] = 0.0
        return False


class TeaCache(Accumulating):
    """ali-vilab/TeaCache, TeaCache4Wan2.1: the time embedding, or with retention its projection, through a polynomial."""

    def __init__(self, job, threshold, polynomial: list[float], retention: bool = False):
        super().__init__(job, threshold, first=5 if retention else 1, last=0 if retention else 1)
        self.polynomial, self.retention = polynomial, retention

    def signal(self, parts):
        return parts.projection if self.retention else parts.time

    def estimate(self, change):
        value = 0.0
        for c in self.polynomial:
            value = value * change + c
        return value


class SeaCache(Accumulating):
    """jiwoogit/SeaCache on Wan: block 0's modulated input through a Wiener filter over the token lattice."""

    def __init__(self, job, threshold, power: float = 3.0, first: int = 1, last: int = 1):
        super().__init__(job, threshold, first, last)
        self.power = power

    def signal(self, parts):
        x = parts.first_input(parts.embed())
        spectrum = torch.fft.fftn(x.unflatten(1, parts.lattice()).float(), dim=(1, 2, 3))
        a, b = 1 - parts.sigma, parts.sigma
        gain = torch.ones(1)
        for axis, count in enumerate(parts.lattice()):
            power = 1 / (torch.fft.fftfreq(count).abs() ** self.power + 1e-16)
            shape = [1] * 5
            shape[axis + 1] = count
            gain = gain * (a * power / (a * a * power + b * b)).reshape(shape)
        return torch.fft.ifftn(spectrum * (gain / gain.mean()), dim=(1, 2, 3)).real


class MagCache(SpanRule):
    """Zehong-Ma/MagCache, MagCache4Wan2.1: a table alone decides."""

    def __init__(self, job, threshold, K: int, R: float, ratios: list[float]):
        super().__init__(job)
        self.threshold, self.K, self.ratios = threshold, K, ratios
        self.first = math.ceil(int(2 * job.steps * R) / 2)
        self.state = [(1.0, 0.0, 0)] * job.branches

    def reuses(self, step, branch, parts):
        if step < self.first:
            return False
        ratio, error, run = self.state[branch]
        ratio *= self.ratios[step]
        error, run = error + abs(1 - ratio), run + 1
        self.changes[step, branch] = error
        reuse = error < self.threshold and run <= self.K
        self.state[branch] = (ratio, error, run) if reuse else (1.0, 0.0, 0)
        return reuse


class DiCache(Rule):
    """Bujiazi/DiCache, WAN2.1: the first block as a probe; the whole stack's residual along the probe's path. own_probe: the
    probe's own blocks count as computed, as refrain has it; the authors forecast their part too."""

    def __init__(self, job, threshold, probe: int = 1, retention: float = 0.2, gamma_max: float = 2.0, own_probe: bool = False):
        super().__init__(job)
        self.threshold, self.probe, self.gamma_max, self.own_probe = threshold, probe, gamma_max, own_probe
        self.first = math.ceil(int(job.steps * job.branches * retention) / job.branches)
        self.sum = [0.0] * job.branches
        self.before = [None] * job.branches
        self.anchors = [[] for _ in range(job.branches)]  # (probe residual, residual), newest first

    def velocity(self, step, branch, parts):
        h0 = parts.embed()
        p = parts.blocks(h0, 0, self.probe)
        reuse = False
        if step >= self.first:
            self.sum[branch] += relative_l1(p, self.before[branch])
            self.changes[step, branch] = self.sum[branch]
            reuse = self.sum[branch] < self.threshold
        self.before[branch] = p
        anchors = self.anchors[branch]
        if not reuse:
            self.sum[branch] = 0.0
            x = parts.blocks(p, self.probe, parts.layers)
            self.anchors[branch] = [(p - h0, x - h0), *anchors[:1]]
            return parts.head(x)
        (q1, r1), *older = anchors
        q, residual = q1, r1
        if older:
            q2, r2 = older[0]
            gamma = ((p - h0 - q2).abs().mean() / (q1 - q2).abs().mean()).clip(1, self.gamma_max).item()
            q, residual = q2 + gamma * (q1 - q2), r2 + gamma * (r1 - r2)
        return parts.head(p + (residual - q) if self.own_probe else h0 + residual)


class EasyCache(Rule):
    """H-EmbodVis/EasyCache, EasyCache4Wan2.1: the conditional branch decides; velocity minus latent is kept."""

    def __init__(self, job, threshold, first: int = 10, last: int = 1):
        super().__init__(job)
        self.threshold, self.first, self.last = threshold, first, last
        self.sum, self.gain, self.reuse = 0.0, None, False
        self.latent = self.anchor = self.output = None  # latent of the last step; of the last computed; its velocity
        self.kept = [None] * job.branches

    def decide(self, step, latent):
        if step < self.first or step >= self.job.steps - self.last:
            self.sum, self.reuse = 0.0, False
        elif self.gain is None:
            self.reuse = False
        else:
            self.sum += (self.gain * ((latent - self.latent).abs().mean() / self.output.abs().mean())).item()
            self.changes[step, 0] = self.sum
            self.reuse = self.sum < self.threshold
            if not self.reuse:
                self.sum = 0.0
        self.latent = latent.clone()

    def velocity(self, step, branch, parts):
        if branch == 0:
            self.decide(step, parts.latent)
        if self.reuse:
            return parts.latent + self.kept[branch]
        v = parts.head(parts.blocks(parts.embed(), 0, parts.layers))
        if branch == 0:
            if self.output is not None:
                self.gain = (v - self.output).abs().mean() / (parts.latent - self.anchor).abs().mean()
            self.anchor, self.output = parts.latent.clone(), v.clone()
        self.kept[branch] = v - parts.latent
        return v


class Zeus(Rule):
    """Ting-Justin-Jiang/ZEUS, the flow-matching solver: the last three outputs, a skipped step repeating the newest, and
    every other skipped step of a run taking the run's first extrapolation. Their code keeps the branches' outputs in one
    list; here it is the guided velocity, as with models that need no second branch."""

    def __init__(self, job, denominator: int = 3, modular: tuple[int, ...] = (0, 1), acc_range=(8, 47), late: int = 24,
                 late_interval: int = 4, max_interval: int = 6):
        super().__init__(job)
        self.denominator, self.modular, self.acc_range = denominator, modular, acc_range
        self.late, self.late_interval, self.max_interval = late, late_interval, max_interval
        self.outputs = [None, None, None]
        self.skip, self.run, self.kept, self.conditional = False, 0, None, None

    def push(self, v):
        self.outputs = [*self.outputs[1:], v]

    def plan_next(self, step):
        """What the solver decides at the end of a step about the next one."""
        end = self.late if self.late else self.acc_range[1]
        early = step % self.denominator in self.modular and self.acc_range[0] <= step < end
        late = self.late and step % self.late_interval != 0 and self.late <= step < self.acc_range[1]
        self.skip = self.outputs[0] is not None and self.run < self.max_interval and bool(early or late)
        self.run = self.run + 1 if self.skip else 0

    def skipped(self):
        """The velocity the solver uses instead."""
        self.push(self.outputs[-1])
        v = self.outputs[-2] + (self.outputs[-2] - self.outputs[-3])
        if self.run % 2 == 1:
            if self.run == 1:
                self.kept = v
            v = self.kept
        return v

    def velocity(self, step, branch, parts):
        last = branch == self.job.branches - 1
        if self.skip:
            if branch == 0:
                self.conditional = self.skipped()
            v = self.conditional  # both branches give it, so that guidance leaves it as it is
        else:
            v = parts.head(parts.blocks(parts.embed(), 0, parts.layers))
            if branch == 0:
                self.conditional = v
            if last:
                guided = v if self.job.branches == 1 else v + self.job.guidance * (self.conditional - v)
                self.push(guided)
        if last:
            self.plan_next(step)
        return v


RULES = {"interval": Interval, "mask": Mask, "teacache": TeaCache, "seacache": SeaCache, "magcache": MagCache, "dicache": DiCache,
         "easycache": EasyCache, "zeus": Zeus}
