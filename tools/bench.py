#!/usr/bin/env python3
"""Times refrain against diffusers on the same machine, cores and checkpoint, in turns, and prints a markdown table.

    tools/bench.py                                            both standard cases, all cores
    tools/bench.py --case models/reference:64x64x17 --threads 1 --rounds 9
    tools/bench.py --rival-dtype bfloat16

Both programs stay loaded and answer the line protocol of tools/bench_rival.py. Each round asks ours and the rival once
for a stage, alternating who goes first, so that a machine that slows down slows both; one round of warming up does not
count (unless it took long). Printed are medians, their spread (half the distance of the quartiles) and the ratio of
medians, above 1 where we are faster; the ratio of the best times stands beside it, because it suffers least from
whatever else the machine does. Both are bound to the same cores. Needs only Python's standard library and the
environment of reference_env.sh.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WIDE = "runs/bench/wan-1.3b-width"  # made when needed: random weights of true Wan 2.1 1.3B widths
CASES = ["models/reference:64x64x17", f"{WIDE}:256x256x17"]
STAGES = ["text", "forward", "decode", "run"]
PAUSE = 0.05  # seconds between two measurements: idle threads of the one before stop spinning
LONG = 10.0  # seconds: what takes longer needs no warming up, its first timing counts
SHORT = 3.0  # seconds that are spent on a stage at least, by up to five times the rounds
BUSY = 0.5  # load average at the start above which figures are not to be believed


class Program:
    """A child that speaks the line protocol."""

    def __init__(self, name: str, command: list[str], cores: list[int]):
        self.name = name
        try:
            self.child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                          preexec_fn=lambda: os.sched_setaffinity(0, cores))
        except OSError as e:
            sys.exit(f"bench: {shlex.join(command)}: {e.strerror}")
        self.facts = self.receive("ready")

    def receive(self, key: str) -> dict:
        """The next line of JSON with `key` in it; other lines are notes."""
        for line in self.child.stdout:
            try:
                answer = json.loads(line)
            except ValueError:
                continue
            if not isinstance(answer, dict):
                continue
            if "error" in answer:
                raise RuntimeError(f"{self.name}: {answer['error']}")
            if key in answer:
                return answer
        raise RuntimeError(f"{self.name}: ended with status {self.child.wait()} before it answered")

    def seconds(self, command: str) -> float:
        self.child.stdin.write(command + "\n")
        self.child.stdin.flush()
        return float(self.receive("seconds")["seconds"])

    def quit(self) -> None:
        try:
            self.child.stdin.write("quit\n")
            self.child.stdin.close()
            self.child.wait(10)
        except (OSError, subprocess.TimeoutExpired):
            self.child.kill()
            self.child.wait()


# --------------------------------------------------------------------------------------------------------------- machine


def choose_cores(count: int) -> list[int]:
    """One hardware thread of each core first, siblings after."""

    def sibling_rank(cpu: int) -> int:
        try:
            text = pathlib.Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            return 0
        first = int(text.split(",")[0].split("-")[0])
        return cpu - first

    allowed = sorted(os.sched_getaffinity(0), key=lambda cpu: (sibling_rank(cpu), cpu))
    if count > len(allowed):
        sys.exit(f"bench: --threads {count}: this process may use {len(allowed)} cores")
    return allowed[:count]


def machine() -> str:
    info = pathlib.Path("/proc/cpuinfo").read_text()
    field = lambda name: next((line.split(":", 1)[1].strip() for line in info.splitlines() if line.startswith(name)), "unknown")
    flags = set(field("flags").split())
    named = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "AVX-512 bf16", "amx_bf16": "AMX bf16"}
    isa = ", ".join(text for flag, text in named.items() if flag in flags) or "no vector extension known here"
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal")) / 2**20
    return f"{field('model name')}, {os.cpu_count()} hardware threads, {isa}, {memory:.0f} GiB, load {os.getloadavg()[0]:.2f} at the start"


# ------------------------------------------------------------------------------------------------------------- measuring


def measure(ours: Program, rival: Program, command: str, rounds: int, budget: float) -> dict:
    """Alternating timings of one command; stops early, after two rounds at least, when `budget` seconds are used up."""
    times: dict[str, list[float]] = {ours.name: [], rival.name: []}
    start = time.monotonic()
    for i in range(-1, 5 * rounds):  # round -1 warms up
        for program in (ours, rival) if i % 2 == 0 else (rival, ours):
            time.sleep(PAUSE)
            seconds = program.seconds(command)
            if i >= 0 or seconds > LONG:
                times[program.name].append(seconds)
        spent = time.monotonic() - start
        if (i >= rounds - 1 and spent > SHORT) or (i >= 1 and spent > budget):
            break
    return {"stage": command, "rounds": min(map(len, times.values())), "ours": summary(times[ours.name]), "rival": summary(times[rival.name]),
            "times": {"ours": times[ours.name], "rival": times[rival.name]}}


def summary(times: list[float]) -> dict:
    quartiles = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return {"median": statistics.median(times), "spread": (quartiles[2] - quartiles[0]) / 2, "best": min(times)}


def pretty(s: dict) -> str:
    """Three digits of the median, the spread to the same place."""
    unit, factor = ("ms", 1e3) if s["median"] < 1 else ("s", 1.0)
    median = s["median"] * factor
    places = 2 if median < 10 else 1 if median < 100 else 0
    return f"{median:.{places}f} ± {s['spread'] * factor:.{places}f} {unit}"


def print_case(title: str, rows: list[dict], rival: str) -> None:
    print(f"\n**{title}**\n\n| stage | refrain | {rival} | ratio | of the best | rounds |\n|---|---|---|---|---|---|")
    for r in rows:
        ratios = " | ".join(f"{r['rival'][key] / r['ours'][key]:.2f}" for key in ("median", "best"))
        print(f"| {r['stage']} | {pretty(r['ours'])} | {pretty(r['rival'])} | {ratios} | {r['rounds']} |")
    sys.stdout.flush()


def bench_case(a: argparse.Namespace, python: str, case: str) -> dict:
    model, size = case.rsplit(":", 1)
    if model == WIDE and not (ROOT / WIDE / "model_index.json").exists():
        subprocess.run([python, "tools/make_checkpoint.py", "--preset", "wan-1.3b-width", "--out", WIDE], cwd=ROOT, check=True, stdout=sys.stderr)
    cores, tail = choose_cores(a.threads), [model, "--size", size, "--threads", str(a.threads)]
    extra = ["--dtype", a.rival_dtype] + (["--compile"] if a.rival_compile else [])
    rival = Program("rival", [python, "tools/bench_rival.py", *tail, *extra], cores)
    ours = None
    try:
        ours = Program("ours", [*shlex.split(a.ours), *tail], cores)
        rows = [measure(ours, rival, f"run {a.steps}" if s == "run" else s, a.rounds, a.budget) for s in a.stages]
    finally:
        for program in (ours, rival):
            if program:
                program.quit()
    name = f"diffusers {rival.facts.get('diffusers', '')}, torch {rival.facts.get('torch', '')}, {a.rival_dtype}" + (", compiled" if a.rival_compile else "")
    print_case(f"{model}, {size}, {a.threads} thread{'s' * (a.threads > 1)}", rows, name)
    return {"case": case, "threads": a.threads, "rival": rival.facts, "ours": ours.facts, "rows": rows}


def reference_python() -> str:
    found = subprocess.run([ROOT / "tools" / "reference_env.sh"], stdout=subprocess.PIPE, text=True)
    if found.returncode != 0:
        sys.exit("bench: no environment for the rival (see above)")
    return found.stdout.strip()


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--case", action="append", metavar="MODEL:WxHxF", help="again for more; default: " + " ".join(CASES))
    p.add_argument("--stages", type=lambda s: s.split(","), default=STAGES, help="of " + ",".join(STAGES))
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--budget", type=float, default=120.0, metavar="SECONDS", help="for one stage; two rounds are made at least")
    p.add_argument("--steps", type=int, default=4, help="of a whole run")
    p.add_argument("--ours", default="build/refrain-worker --bench", help="command line that MODEL --size --threads is added to")
    p.add_argument("--rival-dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--rival-compile", action="store_true", help="torch.compile the rival's denoiser")
    p.add_argument("--json", type=pathlib.Path, metavar="FILE", help="also write every single timing")
    a = p.parse_args()
    print(f"Machine: {machine()}.")
    if os.getloadavg()[0] > BUSY:
        print("bench: other programs are running: the ratios below say little (the rival's threads wait for each other at barriers, and "
              "suffer many times over when one of them loses its core)", file=sys.stderr)
    python = reference_python()
    results = [bench_case(a, python, case) for case in a.case or CASES]
    if a.json:
        a.json.write_text(json.dumps({"machine": machine(), "cases": results}, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except RuntimeError as e:
        sys.exit(f"bench: {e}")
