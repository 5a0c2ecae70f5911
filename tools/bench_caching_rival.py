#!/usr/bin/env python3
"""cache-dit on diffusers and torch, timed on the same cores: rows as tools/bench_caching.c writes them.

    bench_caching_rival.py MODEL STEPS PROMPTS [SEEDS [THREADS]] > rows.csv

Times are of denoising alone (output_type="latent", the prompt's embeddings given), after one run to warm up; the uncached run of
the same prompt and seed is timed between the settings. PSNR and SSIM are against that uncached run, decoded by diffusers. The
column `uncached` is torch's own uncached time, so that `seconds / uncached` is the share that caching leaves there.
"""
import contextlib
import io
import json
import math
import os
import sys
import time

os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "error")

import numpy
import torch
from skimage.metrics import structural_similarity

import reference_cache as rivals
import reference_pipeline as reference

SETTINGS = [
    ("F1B0 R.08", {"residual_diff_threshold": 0.08}, None),
    ("F1B0 R.16", {"residual_diff_threshold": 0.16}, None),
    ("F1B0 R.3", {"residual_diff_threshold": 0.3}, None),
    ("F1B0 R.08 taylor", {"residual_diff_threshold": 0.08}, 1),
    ("F1B0 R.16 taylor", {"residual_diff_threshold": 0.16}, 1),
    ("F1B0 R.3 taylor", {"residual_diff_threshold": 0.3}, 1),
    ("F1B0 R.24 MC3 taylor", {"residual_diff_threshold": 0.24, "max_continuous_cached_steps": 3}, 1),
]


class Bench:
    def __init__(self, model: str, steps: int):
        reference.quiet()
        self.pipe = rivals.fresh(model)
        self.model, self.steps = model, steps
        card = json.load(open(f"{model}/refrain.json"))
        self.size = {"width": card["width"], "height": card["height"], "num_frames": card["frames"]}

    def denoise(self, seed: int, rows, pipe=None):
        """Seconds and latents of one run."""
        pipe = pipe or self.pipe
        generator = torch.Generator().manual_seed(seed)
        began = time.perf_counter()
        with torch.inference_mode():
            latents = pipe(prompt_embeds=rows[0], negative_prompt_embeds=rows[1], num_inference_steps=self.steps, guidance_scale=4.0,
                           generator=generator, output_type="latent", **self.size).frames
        return time.perf_counter() - began, latents

    def frames(self, latents):
        vae = self.pipe.vae
        mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        scale = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        with torch.inference_mode():
            video = vae.decode(latents * scale + mean).sample[0]
        return ((video.clamp(-1, 1) + 1) * 127.5).round().numpy().astype(numpy.float64)  # [3, F, H, W]

    def cached(self, seed, rows, options, order):
        import cache_dit
        arguments = {"Fn_compute_blocks": 1, "Bn_compute_blocks": 0, "max_warmup_steps": 4, "enable_separate_cfg": True, **options}
        extra = {"calibrator_config": cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=order)} if order else {}
        with contextlib.redirect_stdout(io.StringIO()):
            cache_dit.enable_cache(self.pipe, cache_config=cache_dit.DBCacheConfig(**arguments), **extra)
            counter = rivals.Counter(self.pipe.transformer)
            try:
                seconds, latents = self.denoise(seed, rows)
            finally:
                counter.remove()
                cache_dit.disable_cache(self.pipe)
        return seconds, latents, sum(ran < self.pipe.transformer.config.num_layers for ran in counter.calls)


def main():
    model, steps, prompts = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    seeds, threads = int(sys.argv[4]) if len(sys.argv) > 4 else 1, int(sys.argv[5]) if len(sys.argv) > 5 else 1
    torch.set_num_threads(threads)
    lines = [line.strip() for line in open(prompts) if line.strip() and not line.startswith("#")]
    bench = Bench(model, steps)
    print("steps,prompt,seed,family,label,text,seconds,uncached,computed,cells,psnr,psnr_worst,ssim,perceptual")
    warm = True
    for p, prompt in enumerate(lines):
        with torch.inference_mode():
            rows = bench.pipe.encode_prompt(prompt=prompt, negative_prompt="", do_classifier_free_guidance=True)
        for s in range(seeds):
            if warm:
                bench.denoise(0, rows)
                warm = False
            for label, options, order in SETTINGS:
                uncached, latents = bench.denoise(100 * s + p, rows)
                reference_video = bench.frames(latents)
                seconds, latents, reused = bench.cached(100 * s + p, rows, options, order)
                video = bench.frames(latents)
                errors = ((video - reference_video) ** 2).mean(axis=(0, 2, 3))
                decibels = [99.0 if e == 0 else 10 * math.log10(255 ** 2 / e) for e in (errors.mean(), errors.max())]
                ssim = numpy.mean([structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=0)
                                   for a, b in zip(reference_video.transpose(1, 0, 2, 3), video.transpose(1, 0, 2, 3))])
                print(f'{steps},{p},{s},cache-dit,{label},"cache-dit {label}",{seconds:.6f},{uncached:.6f},{2 * steps - reused},{2 * steps},'
                      f"{decibels[0]:.4f},{decibels[1]:.4f},{ssim:.6f},0", flush=True)


if __name__ == "__main__":
    main()
