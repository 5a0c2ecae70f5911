"""Golden data for forecasts, from cache-dit's calibrators: tests/golden/cache/forecasts.json.

    python tools/golden_forecasts.py tests/golden/cache/forecasts.json

Random trajectories of a few dimensions are shown to a calibrator at the computed steps; what it says at the others is
stored. Steps are driven as cache-dit's cache context drives them. Two ways, because its calibrators differ between
the first and the later videos of a process: a state is made at the first update (its count then starts one step
late), or it is there from the start.

The mended FoCa is cache-dit's formula with every difference divided by its distance in steps; nothing else differs.
The mended DMD differs only in the Taylor series that stands in until there are four evenly spaced steps.
Spectrum, the Hermite polynomials of HiCache and FreqCa, and WorldCache's damped slope have no package: their formulas
are written out here with torch, from the papers and the code named in cache/forecast_*.c.
"""

import json
import math
import sys

import torch
from cache_dit.caching.cache_contexts.calibrators.dmd import DMDState
from cache_dit.caching.cache_contexts.calibrators.foca import FoCaState
from cache_dit.caching.cache_contexts.calibrators.taylorseer import TaylorSeerState

STEPS = 30
MASKS = {
    "every4": [0, 1, 2, 6, 10, 14, 18, 22, 26],
    "every3": [0, 3, 6, 9, 12, 15, 18, 21, 24, 27],
    "uneven": [0, 1, 3, 4, 8, 9, 10, 15, 17, 23, 24],
    "sparse": [0, 2, 5, 11, 20],
}
DIMENSIONS = 8


def trajectory(kind, seed):
    """[STEPS, DIMENSIONS], float64."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    t = torch.arange(STEPS, dtype=torch.float64)[:, None] / STEPS
    if kind == "noise":
        y = draw(STEPS, DIMENSIONS)
    elif kind == "modes":  # two turning and one decaying exponential, and a little noise
        y = draw(1, DIMENSIONS) + torch.exp(-2 * t) * draw(1, DIMENSIONS)
        y = y + torch.cos(5 * t) * draw(1, DIMENSIONS) + torch.sin(5 * t) * draw(1, DIMENSIONS)
        y = y + 1e-3 * draw(STEPS, DIMENSIONS)
    else:  # smooth
        y = draw(1, DIMENSIONS) + t * draw(1, DIMENSIONS) + t**2 * draw(1, DIMENSIONS) + torch.sin(3 * t + draw(1, DIMENSIONS))
        y = y + 1e-2 * draw(STEPS, DIMENSIONS)
    return y


class MendedFoCa(FoCaState):
    """FoCaState with slopes per step: the window remembers at which step each of its values is."""

    def reset(self):
        super().reset()
        self.at_k = self.at_km1 = None

    def __init__(self):
        super().__init__()
        self.at_k = self.at_km1 = None

    def update(self, y):
        super().update(y)
        self.at_km1, self.at_k = self.at_k, self.current_step

    def approximate(self):
        if self.F_km1 is None or self.F_full_prev is None:
            return self.F_full.clone()
        elapsed = float(self.current_step - self.last_full_step)
        full = (self.F_full - self.F_full_prev) / (self.last_full_step - self.prev_full_step)
        near = (self.F_k - self.F_km1) / (self.at_k - self.at_km1)
        reach = min(elapsed, 3.0)
        y = self.F_full + reach / 2 * (full + near)
        if elapsed > 3:
            y = (3 / elapsed) * y + (1 - 3 / elapsed) * self.F_full
        self.F_km1, self.F_k = self.F_k, y.clone()
        self.at_km1, self.at_k = self.at_k, self.current_step
        return y


class MendedDMD(DMDState):
    """DMDState whose Taylor stand-in takes differences to the computed step before, as TaylorSeerState does. The
    original compares before it moves on: its difference reaches two computed steps back, divided by the last gap."""

    def _update_taylor(self, y):
        taylor = TaylorSeerState(self.n_derivatives)
        taylor.current_step, taylor.last_non_approximated_step = self.current_step, self.last_non_approximated_step
        taylor.state = self.state
        taylor.update(y)
        self.state = taylor.state


class Ladder:
    """TaylorSeer's differences from the first step on, with another basis."""

    def __init__(self, order, basis):
        self.order, self.basis = order, basis
        self.current_step, self.last, self.d = -1, None, []

    def mark_step_begin(self):
        self.current_step += 1

    def update(self, y):
        d = [y]
        for k in range(min(self.order, len(self.d))):
            d.append((d[k] - self.d[k]) / (self.current_step - self.last))
        self.d, self.last = d, self.current_step

    def approximate(self):
        ahead = float(self.current_step - self.last)
        return sum(self.basis(k, ahead) / math.factorial(k) * d for k, d in enumerate(self.d))


def hermite(contraction):
    polynomials = [lambda x: 1.0, lambda x: 2 * x, lambda x: 4 * x**2 - 2, lambda x: 8 * x**3 - 12 * x]
    return lambda k, d: contraction**k * polynomials[k](contraction * d)


class Spectrum:
    """Ridge over Chebyshev polynomials by torch.linalg.lstsq of the stacked system; window of 16."""

    def __init__(self, penalise):
        self.penalise, self.current_step, self.seen = penalise, -1, []

    def mark_step_begin(self):
        self.current_step += 1

    def update(self, y):
        self.seen = (self.seen + [(self.current_step, y)])[-16:]

    def approximate(self):
        row = lambda i: torch.cos(torch.arange(5, dtype=torch.float64) * math.acos(max(-1.0, 2.0 * i / STEPS - 1)))
        x = torch.stack([row(i) for i, _ in self.seen])
        h = torch.stack([y for _, y in self.seen])
        root = math.sqrt(0.1) * torch.eye(5, dtype=torch.float64)
        if not self.penalise:
            root = root[1:]
        stacked = torch.cat([x, root])
        right = torch.cat([h, torch.zeros(root.shape[0], h.shape[1], dtype=torch.float64)])
        fit = row(self.current_step) @ torch.linalg.lstsq(stacked, right, driver="gelsd").solution
        (i0, y0) = self.seen[-1]
        line = y0
        if len(self.seen) > 1:
            (i1, y1) = self.seen[-2]
            line = y0 + (self.current_step - i0) / (i0 - i1) * (y0 - y1)
        return 0.5 * fit + 0.5 * line


class Damped:
    """WorldCache's slope for fast tokens; n_max 4."""

    def __init__(self):
        self.current_step, self.seen = -1, []

    def mark_step_begin(self):
        self.current_step += 1

    def update(self, y):
        self.seen = (self.seen + [(self.current_step, y)])[-3:]

    def approximate(self):
        s, ahead = self.seen, self.current_step - self.seen[-1][0]
        slope = lambda a, b: (a[1] - b[1]) / (a[0] - b[0])
        if len(s) == 1:
            return s[0][1]
        if len(s) == 2:
            return s[1][1] + ahead * slope(s[1], s[0])
        x = min(ahead / 4, 1.0)
        alpha = 3 * x * x - 2 * x * x * x
        return s[2][1] + ahead * ((1 - alpha) * slope(s[2], s[1]) + alpha * slope(s[1], s[0]))


METHODS = {
    # name: (forecast's text here, its set of weights, state, made at the first update as in a process' first video)
    "cache-dit taylor 1, first video": ("taylor:order=1,from=3", 0, lambda: TaylorSeerState(1), True),
    "cache-dit taylor 2, first video": ("taylor:order=2,from=3", 0, lambda: TaylorSeerState(2), True),
    "cache-dit taylor 2, later videos": ("taylor:order=2,from=2", 0, lambda: TaylorSeerState(2), False),
    "cache-dit taylor 4, later videos": ("taylor:order=4,from=2", 0, lambda: TaylorSeerState(4), False),
    "cache-dit foca": ("foca:spacing=0,slots=16", 0, FoCaState, False),
    "foca, slopes per step": ("foca:spacing=1,slots=16", 0, MendedFoCa, False),
    "cache-dit dmd, stand-in mended": ("dmd:slots=6,order=1,from=2", 0, lambda: MendedDMD(6), False),
    "cache-dit dmd of rank 2, stand-in mended": ("dmd:slots=8,rank=2,order=2,from=2", 0, lambda: MendedDMD(8, 2, 1e-8, 2), False),
    "hicache": ("hermite:order=2,contraction=0.5", 0, lambda: Ladder(2, hermite(0.5)), False),
    "hicache 3": ("hermite:order=3,contraction=0.6", 0, lambda: Ladder(3, hermite(0.6)), False),
    "freqca, high band": ("freqca:cutoff=0.1", 1, lambda: Ladder(2, hermite(0.71)), False),
    "spectrum, constant free": ("spectrum:penalise=0", 0, lambda: Spectrum(False), False),
    "spectrum, as its authors": ("spectrum:penalise=1", 0, lambda: Spectrum(True), False),
    "worldcache, fast tokens": ("worldcache:reach=4", 2, Damped, False),
}


def run(make, late, mask, y):
    """What is said at the steps that are not computed, in order."""
    state, said = make(), []
    for step in range(STEPS):
        if not (late and step == 0):
            state.mark_step_begin()
        if step in mask:
            state.update(y[step])
        else:
            said.append(state.approximate())
    return said


def rounded(tensors):
    return [[float("%.15g" % v) for v in t.tolist()] for t in tensors]


def main(path):
    trajectories = {kind: trajectory(kind, seed) for seed, kind in enumerate(["noise", "smooth", "modes"])}
    cases = []
    for name, (text, which, make, late) in METHODS.items():
        for kind, mask in [("noise", "uneven"), ("smooth", "every4"), ("modes", "every3"), ("modes", "sparse")]:
            said = run(make, late, MASKS[mask], trajectories[kind])
            assert all(torch.isfinite(t).all() for t in said)
            # Two of the dimensions are enough to tell; inner products need all of them, and are the test's to make.
            cases.append({"name": f"{name}, {kind}, {mask}", "forecast": text, "set": which, "trajectory": kind,
                          "computed": MASKS[mask], "said": rounded([t[:2] for t in said])})
    golden = {"steps": STEPS, "dimensions": DIMENSIONS,
              "trajectories": {k: rounded(v) for k, v in trajectories.items()}, "cases": cases}
    with open(path, "w") as f:
        f.write(json.dumps(golden, separators=(",", ":")).replace('{"name"', '\n{"name"').replace(',"smooth":', ',\n"smooth":') + "\n")


def make(out_dir):
    main(out_dir / "cache" / "forecasts.json")


if __name__ == "__main__":
    main(sys.argv[1])
