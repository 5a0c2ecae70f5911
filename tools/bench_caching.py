#!/usr/bin/env python3
"""From the rows of bench_caching to a table and a Pareto plot.

    bench_caching.py ROWS.csv... --table docs/caching-results.md --plot docs/pictures/caching

Rows of one family and label are averaged over prompts and seeds. `time` is the setting's denoising time as a share of the
uncached run of the same prompt and seed (measured in between); PSNR is averaged in dB, and the worst is that of the worst video.
"""
import argparse
import csv
import math
import statistics
from collections import defaultdict


def read(paths):
    rows = defaultdict(list)
    for path in paths:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                rows[int(row["steps"]), row["family"], row["label"], row["text"]].append(row)
    return rows


def summarise(rows):
    """One dict per (steps, family, label): means and worsts over prompts and seeds."""
    found = []
    for (steps, family, label, text), many in rows.items():
        psnr = [min(float(r["psnr"]), 80.0) for r in many]
        found.append({
            "steps": steps, "family": family, "label": label, "text": text, "runs": len(many),
            "time": statistics.median(float(r["seconds"]) / float(r["uncached"]) for r in many),
            "seconds": statistics.median(float(r["seconds"]) for r in many),
            "computed": statistics.mean(int(r["computed"]) / int(r["cells"]) for r in many),
            "psnr": statistics.mean(psnr), "psnr_worst": min(psnr),
            "ssim": statistics.mean(float(r["ssim"]) for r in many), "ssim_worst": min(float(r["ssim"]) for r in many),
            "perceptual": statistics.mean(float(r["perceptual"]) for r in many),
            "perceptual_worst": max(float(r["perceptual"]) for r in many),
        })
    return found


def interpolate(points, time):
    """PSNR of a family at a time share, straight between its settings; None outside them."""
    points = sorted((p["time"], p["psnr"]) for p in points)
    for (t0, q0), (t1, q1) in zip(points, points[1:]):
        if t0 <= time <= t1:
            return q0 + (q1 - q0) * (time - t0) / (t1 - t0) if t1 > t0 else max(q0, q1)
    return None


def frontier(points):
    """Settings that no other beats in both time and PSNR."""
    best, kept = -math.inf, []
    for p in sorted(points, key=lambda p: (p["time"], -p["psnr"])):
        if p["psnr"] > best:
            best = p["psnr"]
            kept.append(p)
    return kept


def table(points, out):
    for steps in sorted({p["steps"] for p in points}):
        here = [p for p in points if p["steps"] == steps]
        fewer = [p for p in here if p["family"] == "fewer steps"]
        print(f"\n### {steps} steps\n", file=out)
        print("| setting | time | faster | PSNR mean / worst, dB | SSIM mean / worst | perceptual mean / worst | against fewer steps |", file=out)
        print("|---|---|---|---|---|---|---|", file=out)
        for p in sorted(here, key=lambda p: (p["family"] != "fewer steps", p["family"], -p["time"])):
            other = None if p["family"] == "fewer steps" else interpolate(fewer, p["time"])
            gain = f"{p['psnr'] - other:+.1f} dB" if other is not None else ""
            name = f"{p['label']} steps" if p["family"] == "fewer steps" else f"`{p['text']}`"
            print(f"| {name} | {p['time']:.2f} | {1 / p['time']:.2f}× | {p['psnr']:.1f} / {p['psnr_worst']:.1f} | "
                  f"{p['ssim']:.3f} / {p['ssim_worst']:.3f} | {p['perceptual']:.4f} / {p['perceptual_worst']:.4f} | {gain} |", file=out)


def plot(points, path):
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    counts = sorted({p["steps"] for p in points})
    figure, axes = plt.subplots(1, len(counts), figsize=(7 * len(counts), 5.4), squeeze=False)
    for axis, steps in zip(axes[0], counts):
        here = [p for p in points if p["steps"] == steps]
        ours = [p for p in here if p["family"] not in ("fewer steps", "cache-dit")]
        for family in sorted({p["family"] for p in ours}):
            mine = [p for p in ours if p["family"] == family]
            axis.plot([p["time"] for p in mine], [p["psnr"] for p in mine], ".", markersize=5, alpha=0.65,
                      color="#c23b22" if family == "zeus" else "#4878a8", label="zeus" if family == "zeus" else None)
        edge = frontier(ours)
        axis.step([p["time"] for p in edge], [p["psnr"] for p in edge], where="post", color="#1b3a57", linewidth=1.6,
                  label="refrain, best at each time")
        for family, style in (("fewer steps", "s--"), ("cache-dit", "^")):
            mine = sorted((p for p in here if p["family"] == family), key=lambda p: p["time"])
            if mine:
                axis.plot([p["time"] for p in mine], [p["psnr"] for p in mine], style, markersize=5, linewidth=1.2,
                          color="#7a7a7a" if family == "fewer steps" else "#2e8b57", label=family)
        named = -math.inf
        for p in edge:
            if 0.2 < p["time"] < 0.85 and p["psnr"] > named + 2.5:
                named = p["psnr"]
                axis.annotate(f"{p['family']} {p['label']}", (p["time"], p["psnr"]), fontsize=7, ha="right",
                              xytext=(-3, 3), textcoords="offset points")
        axis.set_title(f"{steps} steps")
        axis.set_xlabel("denoising time, share of the uncached run")
        axis.set_ylabel("PSNR to the uncached video, dB")
        axis.set_xlim(0.15, 1.02)
        axis.grid(alpha=0.25)
        axis.legend(loc="upper left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path + ".svg")
    figure.savefig(path + ".png", dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--table")
    parser.add_argument("--plot")
    arguments = parser.parse_args()
    points = summarise(read(arguments.rows))
    if arguments.table:
        with open(arguments.table, "w") as out:
            print("# Every setting measured\n\nMade by `make bench-caching`; what it means: [caching.md](caching.md). cache-dit: 4 prompts, "
                  "share of its own uncached\ntime on torch, PSNR to its own uncached video, no perceptual distance; all others 16 prompts × 2 "
                  "seeds.", file=out)
            table(points, out)
    if arguments.plot:
        plot(points, arguments.plot)
    for steps in sorted({p["steps"] for p in points}):
        ours = [p for p in points if p["steps"] == steps and p["family"] not in ("fewer steps", "cache-dit")]
        fewer = [p for p in points if p["steps"] == steps and p["family"] == "fewer steps"]
        for p in frontier(ours):
            other = interpolate(fewer, p["time"])
            gain = "" if other is None else f"{p['psnr'] - other:+6.2f} dB"
            print(f"{steps:3d} {p['time']:.3f} {1 / p['time']:5.2f}x {p['psnr']:6.2f} dB {gain:>10s}  {p['text']}")


if __name__ == "__main__":
    main()
