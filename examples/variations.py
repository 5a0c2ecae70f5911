#!/usr/bin/env python3
"""One video and three others that begin with its steps: for each only what comes after them is computed.

    examples/variations.py tcp://127.0.0.1:5731 reference ["a prompt" [video.mp4]]

writes video.mp4, and beside it video.guided.mp4, video.other.mp4 and video.slow.mp4. See submit.py for what it needs.
"""
import pathlib
import sys

from submit import STAR, connect, fetch, make


def main(endpoint, model, prompt=STAR, output="video.mp4"):
    socket = connect(endpoint)
    first = make(socket, model=model, prompt=prompt, seed=7, steps=10, guidance=4)
    fetch(socket, first, output)
    variations = {  # what is not said is as in that job; model, seed, steps, size, solver and shift cannot be others
        "guided": {"at_step": 5, "guidance": 7},  # the same words followed more closely from step 5 on
        "other": {"at_step": 5, "prompt": "a small white ring on a navy background", "cache": "balanced"},  # other words
        "slow": {"fps": 8},  # no at_step: all steps are that job's, and only the file is made anew
    }
    for name, changes in variations.items():
        job = make(socket, resume_from=first.job, **changes)
        taken, of = job.times.steps_taken_over, job.spec.steps
        print(f"{name}: {taken} of {of} steps taken over; denoising took {job.times.denoise:.2f} s, the whole {first.times.denoise:.2f} s")
        fetch(socket, job, pathlib.Path(output).with_suffix(f".{name}.mp4"))


if __name__ == "__main__":
    main(*sys.argv[1:])
