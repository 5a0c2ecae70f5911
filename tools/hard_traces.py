#!/usr/bin/env python3
"""Traces that are hard for eviction by worth, as files for build/simulate_tier: python3 tools/hard_traces.py DIRECTORY"""
import json
import pathlib
import random
import sys

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
R = random.Random(5)


def request(t, prompt, tenant="a", seed=42, negative="n", guidance=5, origin=-1, at=0, large=False):
    r = {"t": t, "tenant": tenant, "model": "wan-14b" if large else "wan-1.3b", "width": 1280 if large else 832,
         "height": 720 if large else 480, "frames": 81, "steps": 50, "prompt": prompt, "negative": negative, "seed": seed,
         "guidance": guidance}
    if origin >= 0:
        r.update({"from": origin, "at": at})
    return r


def write(name, requests):
    (OUT / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in requests))


def by_depth(count, mean):
    """Prompts at random depths of a stack: what least-recently-used is best at."""
    stack, fresh = [], 0
    for _ in range(count):
        depth = int(R.expovariate(1 / mean))
        if depth < len(stack):
            prompt = stack.pop(depth)
        else:
            prompt, fresh = f"p{fresh}", fresh + 1
        stack.insert(0, prompt)
        yield prompt, fresh


write("stack", [request(i * 100, p) for i, (p, _) in enumerate(by_depth(5000, 60))])
# nothing but texts can be used again
write("texts", [request(i * 100, p, seed=i + 1000, negative=f"m{n}") for i, (p, n) in enumerate(by_depth(5000, 60))])
write("loop", [request(i * 100, f"p{i % 400}") for i in range(4000)])
# the same clips every day, in the same order
day = sorted((R.random() * 86400, f"d{i}") for i in range(600))
write("daily", [request(d * 86400 + t, p) for d in range(5) for t, p in day])
# for two days nothing repeats; then every other request is a variation of one an hour before
phases = [request(i * 100, f"x{i}", seed=i) for i in range(2000)]
for i in range(2000, 4000):
    origin = max(2000, i - 31)
    phases.append(request(i * 100, f"x{i}", seed=i) if i % 2 == 0 else
                  request(i * 100, phases[origin]["prompt"], seed=i - 30, origin=origin, at=30, guidance=5 + i % 7))
write("phases", phases)
# what is popular drifts
write("drift", [request(i * 60, f"h{i // 40 + int(R.expovariate(1 / 15))}", seed=R.choice([1, 2, 3])) for i in range(6000)])
# popularity by Zipf's law, without any memory
zipf = R.choices(range(1500), [1 / (k + 1) for k in range(1500)], k=6000)
write("zipf", [request(i * 60, f"z{k}") for i, k in enumerate(zipf)])
# large clips that nobody wants again among small ones that somebody does
write("scan", [request(i * 120, f"s{R.randint(0, 40) + i // 100}", seed=R.randint(0, 1)) if i % 3 else
               request(i * 120, f"big{i}", tenant="b", seed=i, large=True) for i in range(4000)])
# too short to learn from
write("short", [request(i * 300, p, seed=R.randint(0, 2), guidance=R.choice([4, 5, 6]))
                for i, (p, _) in enumerate(by_depth(300, 10))])
