"""Golden data for the VAE, from diffusers' AutoencoderKLWan in float32 (chunked, with its feature cache).

    python tools/golden_vae.py tests/golden

Makes small random-weight checkpoints in vae/NAME, in the published layout, and vae_NAME.safetensors beside them:

    latents   [z, T, h, w]     what the denoiser would give (normalised)
    frames    [F, 3, H, W]     the decoded video in 0..1; of the reference model every third row and column from the second on
    encoded   [z, T, h, w]     posterior mean of pattern(F, H, W), normalised; absent where the reference cannot encode

`reference` needs no checkpoint of its own: it is models/reference/vae.
"""

import pathlib
import sys

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file

ROOT = pathlib.Path(__file__).resolve().parent.parent

# name: (constructor arguments, stored dtype, latent frames, latent height, latent width). Odd widths, several depths,
# every kind of level, sizes that are not square and one that is a single pixel high. Not odder than that: the norm of a
# layer of one or two channels is nearly a sign, and turns rounding errors into visible ones in the reference as well.
CONFIGS = {
    "narrow": (dict(base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]), torch.float32, 5, 2, 3),
    "uneven": (dict(base_dim=4, z_dim=16, dim_mult=[1, 2, 3, 2], num_res_blocks=1, temperal_downsample=[True, True, False]), torch.bfloat16, 3, 3, 2),
    "shallow": (dict(base_dim=5, decoder_base_dim=7, z_dim=3, dim_mult=[1, 2, 1], num_res_blocks=2, temperal_downsample=[True, False]), torch.float16, 3, 5, 4),
    "still": (dict(base_dim=6, z_dim=5, dim_mult=[2, 1], num_res_blocks=3, temperal_downsample=[False]), torch.float16, 5, 1, 6),
    "flat": (dict(base_dim=8, z_dim=2, dim_mult=[1], num_res_blocks=1, temperal_downsample=[]), torch.float32, 1, 7, 5),
    "deep": (dict(base_dim=6, z_dim=6, dim_mult=[1, 1, 2, 1, 1], num_res_blocks=1, temperal_downsample=[True, False, True, True]), torch.bfloat16, 2, 1, 2),
}


def pattern(frames, height, width):
    """[F, 3, H, W] in 0..1: the bytes ((7x + 11y + 5f + 80c + xy / 3) mod 256) / 255, easy to make again in C."""
    f, c, y, x = torch.meshgrid(torch.arange(frames), torch.arange(3), torch.arange(height), torch.arange(width), indexing="ij")
    return ((7 * x + 11 * y + 5 * f + 80 * c + x * y // 3) % 256).float() / 255


def random_vae(arguments, seed):
    """Weights that keep activations near 1 in every layer, and outputs mostly inside -1..1."""
    generator = torch.Generator().manual_seed(seed)
    z, down = arguments["z_dim"], arguments["temperal_downsample"]
    normal = lambda *shape: torch.randn(*shape, generator=generator)
    vae = AutoencoderKLWan(
        **arguments,
        latents_mean=(0.5 * normal(z)).tolist(),
        latents_std=(1 + torch.rand(z, generator=generator)).tolist(),
        scale_factor_temporal=2 ** sum(down),
        scale_factor_spatial=2 ** len(down),
    )
    for name, p in sorted(vae.named_parameters()):
        if name.endswith("gamma"):
            p.data = 1 + 0.1 * normal(*p.shape)
        elif p.dim() == 1:
            p.data = 0.1 * normal(*p.shape)
        else:
            gain = 1.5 if "conv_out" in name else 1.0
            p.data = gain * normal(*p.shape) / p[0].numel() ** 0.5
    return vae.eval()


@torch.no_grad()
def decode(vae, latents):
    """As WanPipeline does it after its loop."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    reciprocal = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    video = vae.decode(latents / reciprocal + mean, return_dict=False)[0]
    return (video * 0.5 + 0.5).clamp(0, 1)[0].transpose(0, 1).contiguous()


@torch.no_grad()
def encode(vae, frames):
    """As WanVideoToVideoPipeline does it with sample_mode "argmax"."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    reciprocal = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    moments = vae.encode(frames.transpose(0, 1)[None] * 2.0 - 1.0).latent_dist
    return ((moments.mode() - mean) * reciprocal)[0].contiguous()


def make_one(vae, t, h, w, seed):
    scale_t, scale_y = vae.config.scale_factor_temporal, vae.config.scale_factor_spatial
    latents = torch.randn(1, vae.config.z_dim, t, h, w, generator=torch.Generator().manual_seed(seed))
    out = {"latents": latents[0].contiguous(), "frames": decode(vae, latents)}
    frames = 1 + scale_t * (t - 1)
    # The reference cuts its input into chunks of four frames whatever the scale; three halvings do not fit in.
    if (frames - 1) % 4 == 0 and scale_t <= 4:
        out["encoded"] = encode(vae, pattern(frames, h * scale_y, w * scale_y))
    return out


def make(out_dir):
    out_dir = pathlib.Path(out_dir)
    for seed, (name, (arguments, dtype, t, h, w)) in enumerate(CONFIGS.items(), 100):
        directory = out_dir / "vae" / name
        random_vae(arguments, seed).to(dtype).save_pretrained(directory, max_shard_size="100KB" if name == "uneven" else "10GB")
        vae = AutoencoderKLWan.from_pretrained(directory, torch_dtype=torch.float32)
        save_file(make_one(vae, t, h, w, seed), out_dir / f"vae_{name}.safetensors")
    vae = AutoencoderKLWan.from_pretrained(ROOT / "models" / "reference" / "vae", torch_dtype=torch.float32)
    out = make_one(vae, 5, 8, 8, 99)
    out["frames"] = out["frames"][:, :, 1::3, 1::3].contiguous()
    save_file(out, out_dir / "vae_reference.safetensors")


if __name__ == "__main__":
    make(sys.argv[1] if len(sys.argv) > 1 else ROOT / "tests" / "golden")
