"""Golden data for the quality measures, from scikit-image and diffusers: tests/golden/quality.safetensors.

    python tools/golden_quality.py tests/golden

Pairs of small videos, structured and noisy, with values beyond 0..1; for each NAME

    NAME.reference, NAME.video   [F, 3, H, W] float16
    NAME.psnr                    [F + 1] dB of each frame, then of all of them
    NAME.ssim                    [1] mean over frames
    NAME.perceptual              [levels] the distance of each level of the encoder of models/reference/vae and of the
                                 latent, where sizes are ones that it takes; see worker/model/vae_distance.h

PSNR and SSIM are of pictures of 8 bits. Needs scikit-image beside the environment of tools/reference_env.sh.
"""

import pathlib
import sys

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent

# name: (frames, height, width, kind of difference)
CASES = {
    "noise": (3, 16, 20, "noise"),
    "odd": (2, 33, 11, "shift"),
    "dark": (2, 24, 31, "dark"),
    "single": (1, 40, 24, "blur"),
    "film": (5, 32, 24, "noise"),
}


def structured(frames, height, width, rng):
    """Moving waves and an edge, a little noise, some values beyond 0..1: [F, 3, H, W]."""
    t, c, y, x = np.meshgrid(np.arange(frames), np.arange(3), np.arange(height), np.arange(width), indexing="ij")
    waves = 0.5 + 0.4 * np.sin(0.5 * x + 0.3 * t + c) * np.cos(0.35 * y - 0.2 * t)
    edge = np.where(x + y // 2 > width // 2 + t, 0.35, -0.1)
    return waves + edge + 0.02 * rng.standard_normal(waves.shape)


def changed(video, kind, rng):
    if kind == "noise":
        return video + 0.05 * rng.standard_normal(video.shape)
    if kind == "shift":
        return np.roll(video, 1, axis=3)
    if kind == "dark":
        return 0.7 * video
    return (np.roll(video, 1, axis=3) + 2 * video + np.roll(video, -1, axis=3)) / 4


def to_levels(video):
    """[F, 3, H, W] to [F, H, W, 3] bytes, rounded to the nearest in float32."""
    return np.rint(np.clip(video.astype(np.float32), 0, 1) * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1)


def picture_measures(reference, video):
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    a, b = to_levels(reference), to_levels(video)
    psnr = [peak_signal_noise_ratio(p, q, data_range=255) for p, q in zip(a, b)] + [peak_signal_noise_ratio(a, b, data_range=255)]
    options = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2)
    return psnr, np.mean([structural_similarity(p, q, **options) for p, q in zip(a, b)])


@torch.no_grad()
def features(vae, video):
    """Outputs of every resampling of the encoder, frames joined, and the normalised latent: each [C, F, H, W]."""
    found = []
    modules = [m for m in vae.encoder.down_blocks if type(m).__name__ == "WanResample"]
    outputs = {m: [] for m in modules}
    hooks = [m.register_forward_hook(lambda module, inputs, output: outputs[module].append(output[0])) for m in modules]
    mean = torch.tensor(vae.config.latents_mean).view(-1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(-1, 1, 1, 1)
    latent = vae.encode(torch.from_numpy(video.astype(np.float32)).transpose(0, 1)[None] * 2 - 1).latent_dist.mode()[0]
    for hook in hooks:
        hook.remove()
    for m in modules:
        found.append(torch.cat(outputs[m], dim=1))
    return found + [(latent - mean) / std]


def distances(vae, reference, video):
    result = []
    for a, b in zip(features(vae, reference), features(vae, video)):
        unit = [x.double() / (x.double().norm(dim=0, keepdim=True) + 1e-10) for x in (a, b)]
        result.append((unit[0] - unit[1]).square().sum(dim=0).mean())
    return torch.stack(result)


def make(out_dir):
    vae = AutoencoderKLWan.from_pretrained(ROOT / "models" / "reference" / "vae", torch_dtype=torch.float32)
    out = {}
    for seed, (name, (frames, height, width, kind)) in enumerate(CASES.items(), 40):
        rng = np.random.default_rng(seed)
        reference = structured(frames, height, width, rng).astype(np.float16)
        video = changed(reference.astype(np.float64), kind, rng).astype(np.float16)
        psnr, ssim = picture_measures(reference, video)
        out[f"{name}.reference"] = torch.from_numpy(reference)
        out[f"{name}.video"] = torch.from_numpy(video)
        out[f"{name}.psnr"] = torch.tensor(psnr, dtype=torch.float32)
        out[f"{name}.ssim"] = torch.tensor([ssim], dtype=torch.float32)
        if (frames - 1) % 4 == 0 and height % 8 == 0 and width % 8 == 0:
            out[f"{name}.perceptual"] = distances(vae, reference, video).float()
    save_file(out, pathlib.Path(out_dir) / "quality.safetensors")


if __name__ == "__main__":
    make(sys.argv[1] if len(sys.argv) > 1 else ROOT / "tests" / "golden")
