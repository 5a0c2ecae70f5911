#!/usr/bin/env python3
"""Pictures of docs/simulation.md, from build/simulate: python3 tools/plot_simulation.py [build] (needs matplotlib)."""
import csv
import io
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

BUILD = sys.argv[1] if len(sys.argv) > 1 else "build"
OUT = "docs/pictures"
COLOURS = {2: "#2a6f97", 4: "#c1666b", 8: "#548c2f"}
LAYOUTS = {"shifted": "#2a6f97", "spare": "#7b5ea7", "floating": "#548c2f", "even": "#c1666b"}


def simulate(verb, **options):
    arguments = [f"{BUILD}/simulate", verb, "--csv"]
    for name, value in options.items():
        arguments += [f"--{name}", str(value)]
    text = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    return [{k: float(v) if v.replace(".", "").isdigit() else v for k, v in row.items()} for row in rows]


def picture(name, axes_of):
    plt.rcParams.update({"font.size": 8, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(7.2, 2.9), dpi=110)
    axes_of(figure)
    figure.tight_layout()
    figure.savefig(f"{OUT}/sim-{name}.png")
    plt.close(figure)
    print(f"{OUT}/sim-{name}.png")


def over_jobs(figure):
    """Steps in a stage's time, over jobs in flight: dots simulated, lines max(JG, P+G-1+Pc)."""
    for place, hop in ((1, 0), (2, 0.41)):
        axes = figure.add_subplot(1, 2, place)
        rows = [r for r in simulate("cycle", hop=hop) if r["branches"] == 2]
        for ranks, colour in COLOURS.items():
            mine = [r for r in rows if r["ranks"] == ranks]
            jobs = [r["jobs"] for r in mine]
            axes.plot(jobs, [2 * j / r["predicted"] for j, r in zip(jobs, mine)], color=colour, lw=1)
            axes.plot(jobs, [2 * j / r["simulated"] for j, r in zip(jobs, mine)], "o", ms=3.5, color=colour,
                      label=f"{ranks} ranks")
        axes.set_xlabel("jobs in flight")
        axes.set_ylabel("share of the time that ranks compute")
        axes.set_ylim(0, 1.05)
        axes.set_title("no time for hops" if hop == 0 else f"a hop takes {hop} of a stage", fontsize=8)
        axes.legend(frameon=False, loc="lower right")


def over_hits(figure):
    """Job-steps in the time of one whole branch on one rank, over the share of steps that are hits: 4 ranks, 8 jobs."""
    rows = [r for percent in range(0, 75, 9) for r in simulate("cached", percent=percent, jobs=8)]
    for place, head in ((1, 1), (2, 8)):
        axes = figure.add_subplot(1, 2, place)
        for layout, colour in LAYOUTS.items():
            mine = [r for r in rows if r["layout"] == layout and r["head"] == head]
            axes.plot([r["percent"] for r in mine], [r["simulated"] for r in mine], "o-", ms=3, lw=1, color=colour,
                      label={"shifted": "fixed home, blocks shifted", "spare": "shifted, a spare block",
                             "even": "fixed home, even split",
                             "floating": "floating homes"}[layout])
        mine = [r for r in rows if r["layout"] == "floating" and r["head"] == head]
        axes.plot([r["percent"] for r in mine], [r["ideal"] for r in mine], "--", color="grey", lw=1, label="ideal")
        axes.axhline(mine[0]["uncached"], color="black", lw=0.7, ls=":", label="not cached")
        axes.set_xlabel("hits, % of steps")
        axes.set_ylabel("job-steps per forward time")
        axes.set_ylim(0, 7)
        axes.set_title(f"a hit runs {head} of 40 blocks", fontsize=8)
        axes.legend(frameon=False, loc="upper left")


def over_ranks(figure):
    """The same, over ranks: two jobs and a half for each rank, 54 % hits."""
    counts = (2, 4, 6, 8, 12, 16, 20, 24)
    rows = [r for ranks in counts for r in simulate("cached", ranks=ranks, jobs=min(64, ranks * 5 // 2 + 2))]
    for place, head in ((1, 1), (2, 8)):
        axes = figure.add_subplot(1, 2, place)
        for layout, colour in LAYOUTS.items():
            mine = [r for r in rows if r["layout"] == layout and r["head"] == head]
            axes.plot([r["ranks"] for r in mine], [r["simulated"] for r in mine], "o-", ms=3, lw=1, color=colour,
                      label={"shifted": "fixed home, blocks shifted", "spare": "shifted, a spare block",
                             "even": "fixed home, even split",
                             "floating": "floating homes"}[layout])
        mine = [r for r in rows if r["layout"] == "floating" and r["head"] == head]
        axes.plot([r["ranks"] for r in mine], [r["ideal"] for r in mine], "--", color="grey", lw=1, label="ideal")
        axes.plot([r["ranks"] for r in mine], [r["uncached"] for r in mine], ":", color="black", lw=0.7,
                  label="not cached")
        axes.set_xlabel("ranks")
        axes.set_ylabel("job-steps per forward time")
        axes.set_title(f"a hit runs {head} of 40 blocks", fontsize=8)
        axes.legend(frameon=False, loc="upper left")


picture("jobs", over_jobs)
picture("hits", over_hits)
picture("ranks", over_ranks)
