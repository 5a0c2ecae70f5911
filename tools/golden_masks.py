#!/usr/bin/env python3
"""SCM step masks by cache-dit itself, for every step count up to 120 and a few larger ones, into
tests/golden/cache/masks.json: {"scm-slow": {"28": "1111...", ...}, ...}.

    .reference-env/bin/python tools/golden_masks.py tests/golden/cache/masks.json
"""

import json
import sys

import cache_dit

STEPS = [4, 6] + list(range(8, 121)) + [200, 250, 333, 500, 1000]


def main(path):
    masks = {}
    for policy in ("slow", "medium", "fast", "ultra"):
        masks["scm-" + policy] = {
            str(steps): "".join(map(str, cache_dit.steps_mask(total_steps=steps, mask_policy=policy))) for steps in STEPS
        }
    with open(path, "w", encoding="utf-8") as out:
        json.dump(masks, out, indent=0)
        out.write("\n")


def make(out_dir):
    main(out_dir / "cache" / "masks.json")


if __name__ == "__main__":
    main(sys.argv[1])
