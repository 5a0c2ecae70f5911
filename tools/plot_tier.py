#!/usr/bin/env python3
"""The picture of docs/tier.md, from build/simulate_tier: python3 tools/plot_tier.py [build] (needs matplotlib)."""
import csv
import io
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BUILD = sys.argv[1] if len(sys.argv) > 1 else "build"
OUT = "docs/pictures/tier-traces.png"
LIMITS = "1,2,5,10,20,50,100,200,400"
COLOURS = {"mixed": "#222222", "archive": "#2a6f97", "bursts": "#c1666b", "iterate": "#548c2f", "many": "#7b5ea7"}

text = subprocess.run([f"{BUILD}/simulate_tier", "--csv", "--limits", LIMITS], check=True, capture_output=True,
                      text=True).stdout
rows = list(csv.DictReader(io.StringIO(text)))
plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
figure = plt.figure(figsize=(7.2, 2.9), dpi=110)
saved, ratio = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
for trace, colour in COLOURS.items():
    mine = [r for r in rows if r["trace"] == trace]
    gb = [float(r["gb"]) for r in mine]
    saved.plot(gb, [100 * float(r["worth"]) for r in mine], "o-", ms=3, lw=1, color=colour, label=trace)
    saved.plot(gb, [100 * float(r["oldest"]) for r in mine], "--", lw=1, color=colour)
    ratio.plot(gb, [float(r["ratio"]) for r in mine], "o-", ms=3, lw=1, color=colour, label=trace)
saved.plot([], [], "o-", ms=3, lw=1, color="grey", label="by worth")
saved.plot([], [], "--", lw=1, color="grey", label="oldest first")
saved.set_ylabel("seconds saved, % of what was asked for")
saved.legend(frameon=False, ncol=2, loc="upper left", fontsize=7)
saved.set_ylim(0, 34)
ratio.set_ylabel("seconds saved, by worth / oldest first")
ratio.set_yscale("log")
ratio.set_yticks([1, 1.3, 2, 4, 8])
ratio.set_yticklabels(["1", "1.3", "2", "4", "8"])
ratio.minorticks_off()
ratio.axhline(1, color="black", lw=0.7, ls=":")
ratio.axhline(1.3, color="black", lw=0.7, ls=":")
for axes in (saved, ratio):
    axes.set_xscale("log")
    axes.set_xlabel("bytes of the store, GB")
    axes.set_xticks([1, 10, 100])
    axes.set_xticklabels(["1", "10", "100"])
figure.tight_layout()
figure.savefig(OUT)
print(OUT)
