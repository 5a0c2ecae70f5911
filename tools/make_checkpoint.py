#!/usr/bin/env python3
"""Writes a random-weight text-to-video pipeline in the layout real checkpoints are published in.

    tools/make_checkpoint.py --preset tiny-a --out tests/models/tiny-a
    tools/make_checkpoint.py --preset wan-1.3b-width --out runs/wide --layers 2 --transformer-dtype float32
    tools/make_checkpoint.py --out /somewhere --heads 3 --head-dim 40 --layers 5 --shard 100KB --seed 7

The files are written by the libraries that write the published ones (diffusers' and transformers' save_pretrained), so
names, shapes, index files and dtypes are theirs. The values are random but not arbitrary: activations stay of order
one through every layer, attention is peaked enough that a prompt changes a third of the result and more, and
frames mostly stay inside 0..1. Equal options make equal bytes.
"""
from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import pathlib
import shutil
import sys

import torch
from diffusers import (AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline,
                       WanTransformer3DModel)
from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel
from transformers.utils import logging as transformers_logging

ROOT = pathlib.Path(__file__).resolve().parent.parent
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# What diffusers keeps in float32 when it loads this transformer in half precision: the published files do the same.
KEPT_F32 = WanTransformer3DModel._keep_in_fp32_modules


def option(default, help: str, choices=None):
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


@dataclasses.dataclass
class Recipe:
    """Every number of a checkpoint; each field is a command line option of the same name."""

    seed: int = option(1, "of the weights")
    # denoiser
    heads: int = option(4, "attention heads")
    head_dim: int = option(16, "width of a head, even")
    layers: int = option(2, "transformer blocks")
    ffn_dim: int = option(128, "width of the feed-forward layer")
    freq_dim: int = option(256, "width of the timestep's sinusoid")
    patch: tuple = option((1, 2, 2), "latent frames, rows and columns of a token")
    max_position: int = option(1024, "patches along an axis (rope_max_seq_len)")
    eps: float = option(1e-6, "of the denoiser's norms")
    cross_norm: bool = option(True, "normalise before cross-attention (cross_attn_norm)")
    transformer_dtype: str = option("float32", "of the stored denoiser", choices=list(DTYPES))
    experts: int = option(1, "denoisers: 2 adds transformer_2, which makes the steps below the boundary", choices=[1, 2])
    boundary: float = option(0.875, "boundary_ratio of two experts")
    second_dtype: str = option("float32", "of the stored second expert", choices=list(DTYPES))
    # text encoder; its width is the denoiser's text_dim
    text_layers: int = option(2, "text encoder blocks")
    text_heads: int = option(4, "text encoder heads")
    text_head_dim: int = option(8, "width of a text encoder head (d_kv)")
    text_width: int = option(32, "d_model, and the denoiser's text_dim")
    text_ffn: int = option(64, "d_ff")
    text_buckets: int = option(32, "relative_attention_num_buckets")
    text_max_distance: int = option(128, "relative_attention_max_distance")
    text_eps: float = option(1e-6, "layer_norm_epsilon")
    vocabulary: int = option(0, "embedding rows; never fewer than the tokenizer has")
    text_dtype: str = option("float32", "of the stored text encoder", choices=list(DTYPES))
    tokenizer: str = option("models/reference/tokenizer", "directory to take the tokenizer from")
    tokenizer_files: str = option("both", "which of spiece.model and tokenizer.json to publish", choices=["both", "spiece", "json"])
    # autoencoder
    channels: int = option(16, "latent channels, of the denoiser too")
    vae_base: int = option(4, "base_dim")
    vae_mult: tuple = option((1, 2, 4, 4), "dim_mult; one level more than there are halvings")
    vae_resnets: int = option(1, "num_res_blocks")
    vae_temporal: tuple = option((0, 1, 1), "temperal_downsample, 0 or 1 for each halving")
    vae_dtype: str = option("float32", "of the stored autoencoder", choices=list(DTYPES))
    # solver and files
    solver: str = option("unipc", "scheduler class", choices=["unipc", "euler"])
    shift: float = option(3.0, "flow shift")
    shard: str = option("10GB", "largest file, such as 100KB; a component above it is split, with an index file")
    sparse_config: bool = option(False, "leave keys with the class's default out of config.json, as older files do")


PRESETS: dict[str, dict] = {
    # About the sizes of diffusers' own tests, nothing split. (Their autoencoder is 3 channels wide; a norm over so few
    # comes close to dividing by zero at some pixel of any video, where rounding decides the result.)
    "tiny-a": dict(seed=11, heads=2, head_dim=12, layers=2, ffn_dim=56, text_heads=4, text_head_dim=8, text_width=32, text_ffn=37,
                   vae_base=5, vae_mult=(1, 1, 1, 1), tokenizer_files="json"),
    # Widths that fill no vector register, three dtypes, every component in shards, only spiece.model, epsilons that show.
    "tiny-b": dict(seed=12, heads=3, head_dim=40, layers=2, ffn_dim=131, freq_dim=64, eps=1e-3, transformer_dtype="bfloat16",
                   text_layers=3, text_heads=3, text_head_dim=20, text_width=50, text_ffn=90, text_eps=1e-4, text_dtype="float16", vocabulary=160,
                   vae_base=4, vae_mult=(1, 2, 3, 2), vae_resnets=2, vae_temporal=(1, 1, 0), vae_dtype="float16",
                   tokenizer_files="spiece", shift=5.0, shard="120KB"),
    # One block, no cross-attention norm, 8 latent channels, an autoencoder of two halvings, Euler, sparse configuration.
    "tiny-c": dict(seed=13, heads=4, head_dim=10, layers=1, ffn_dim=96, cross_norm=False, channels=8, text_layers=1, text_heads=1,
                   text_head_dim=16, text_width=24, text_ffn=48, text_buckets=12, text_max_distance=40, text_dtype="bfloat16",
                   vae_base=5, vae_mult=(1, 2, 2), vae_temporal=(1, 1), vae_dtype="bfloat16", tokenizer_files="json", solver="euler", shift=7.0,
                   sparse_config=True),
    # Two experts, as Wan 2.2 has them at this boundary.
    "tiny-d": dict(seed=21, heads=2, head_dim=12, layers=8, ffn_dim=56, experts=2, text_heads=4, text_head_dim=8, text_width=32, text_ffn=37,
                   vae_base=5, vae_mult=(1, 1, 1, 1), tokenizer_files="json"),
    # Two experts of another shape and boundary, stored in two types and in shards; Euler.
    "tiny-e": dict(seed=22, heads=3, head_dim=10, layers=3, ffn_dim=71, freq_dim=64, eps=1e-4, cross_norm=False, channels=8, experts=2, boundary=0.6,
                   second_dtype="bfloat16", text_layers=1, text_heads=2, text_head_dim=9, text_width=26, text_ffn=40, vae_base=4, vae_mult=(1, 2, 2),
                   vae_temporal=(1, 1), tokenizer_files="spiece", solver="euler", shift=5.0, shard="80KB"),
    # True Wan 2.1 1.3B widths and the true autoencoder, for speed; few blocks, and a text encoder as narrow as it can be.
    "wan-1.3b-width": dict(seed=14, heads=12, head_dim=128, layers=4, ffn_dim=8960, transformer_dtype="bfloat16", text_layers=1,
                           text_heads=4, text_head_dim=64, text_width=4096, text_ffn=512, text_dtype="bfloat16", vae_base=96,
                           vae_resnets=2, shard="200MB"),
}


# --------------------------------------------------------------------------------------------------------------- weights


def normal(generator: torch.Generator, like: torch.Tensor, std: float, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(like.shape, generator=generator) * std + mean


@torch.no_grad()
def fill(module: torch.nn.Module, generator: torch.Generator, scale) -> None:
    """Fills every parameter; scale(name, tensor) -> (mean, std). Matrices default to a gain of one: N(0, 1 / fan_in)."""
    for name, p in module.named_parameters():
        mean, std = scale(name, p)
        p.copy_(normal(generator, p, std, mean))


def fan_in(p: torch.Tensor) -> float:
    return p[0].numel() ** -0.5


def denoiser_scale(name: str, p: torch.Tensor) -> tuple[float, float]:
    if name.endswith("scale_shift_table"):
        return 0.0, 0.3
    if "norm_q" in name or "norm_k" in name:
        # Scores have a deviation of about (mean of the weights)^2. Over text some must beat 500 equal pad rows, that
        # is ln 500 = 6, or the prompt would not matter; but the larger they are, the more rounding is magnified.
        return (1.5, 0.2) if "attn2" in name else (1.0, 0.2)
    if "norm2.weight" in name:
        return 1.0, 0.1
    if name.endswith("bias"):
        return 0.0, 0.1
    gain = 0.4 if "time_proj" in name else 1.5 if "attn2.to_out" in name else 1.0
    return 0.0, gain * fan_in(p)


def text_scale(name: str, p: torch.Tensor, config: UMT5Config) -> tuple[float, float]:
    if "layer_norm" in name:
        return 1.0, 0.1
    if "embed_tokens" in name or name.startswith("shared"):
        return 0.0, 1.0
    if "relative_attention_bias" in name:
        return 0.0, 0.5
    if "SelfAttention.q" in name:  # this family does not divide scores by sqrt(d_kv): the weights do
        return 0.0, fan_in(p) * config.d_kv**-0.5
    return 0.0, fan_in(p)


def vae_scale(name: str, p: torch.Tensor) -> tuple[float, float]:
    if name.endswith("gamma"):
        return 1.0, 0.1
    if name.endswith("bias"):
        return 0.0, 0.05
    # Residual branches are turned down, so that depth does not blow the signal up; conv_out so that frames fit 0..1.
    gain = 0.3 if ".conv2." in name else 0.5 if ".proj." in name or name == "decoder.conv_out.weight" else 1.0
    return 0.0, gain * fan_in(p)


# ------------------------------------------------------------------------------------------------------------ components


def stored_as(dtype: str, model: torch.nn.Module, keep: list[str] = ()) -> torch.nn.Module:
    """Casts every parameter in place, but those with a component of their name in `keep`."""
    for name, p in model.named_parameters():
        if not any(part in keep for part in name.split(".")):
            p.data = p.data.to(DTYPES[dtype])
    return model


def make_denoiser(r: Recipe, generator: torch.Generator, dtype: str) -> WanTransformer3DModel:
    model = WanTransformer3DModel(patch_size=r.patch, num_attention_heads=r.heads, attention_head_dim=r.head_dim, in_channels=r.channels,
                                  out_channels=r.channels, text_dim=r.text_width, freq_dim=r.freq_dim, ffn_dim=r.ffn_dim,
                                  num_layers=r.layers, cross_attn_norm=r.cross_norm, eps=r.eps, rope_max_seq_len=r.max_position)
    fill(model, generator, denoiser_scale)
    return stored_as(dtype, model, KEPT_F32)


def make_text_encoder(r: Recipe, generator: torch.Generator, vocabulary: int) -> UMT5EncoderModel:
    config = UMT5Config(vocab_size=max(r.vocabulary, vocabulary), d_model=r.text_width, d_kv=r.text_head_dim, d_ff=r.text_ffn,
                        num_layers=r.text_layers, num_heads=r.text_heads, relative_attention_num_buckets=r.text_buckets,
                        relative_attention_max_distance=r.text_max_distance, layer_norm_epsilon=r.text_eps, dropout_rate=0.0,
                        feed_forward_proj="gated-gelu", is_encoder_decoder=False, use_cache=False)
    model = UMT5EncoderModel(config)
    fill(model, generator, lambda name, p: text_scale(name, p, config))
    return stored_as(r.text_dtype, model)


def make_vae(r: Recipe, generator: torch.Generator) -> AutoencoderKLWan:
    mean = torch.randn(r.channels, generator=generator) * 0.5
    std = 1 + 2 * torch.rand(r.channels, generator=generator)
    model = AutoencoderKLWan(base_dim=r.vae_base, z_dim=r.channels, dim_mult=list(r.vae_mult), num_res_blocks=r.vae_resnets,
                             temperal_downsample=[bool(t) for t in r.vae_temporal], latents_mean=[round(v, 4) for v in mean.tolist()],
                             latents_std=[round(v, 4) for v in std.tolist()], scale_factor_temporal=2 ** sum(r.vae_temporal),
                             scale_factor_spatial=2 ** (len(r.vae_mult) - 1))
    fill(model, generator, vae_scale)
    return stored_as(r.vae_dtype, model)


def make_scheduler(r: Recipe):
    if r.solver == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=r.shift)
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=r.shift)


# ----------------------------------------------------------------------------------------------------------------- files


def publish_tokenizer(r: Recipe, source: pathlib.Path, to: pathlib.Path) -> None:
    """The source's own files, byte for byte: what a library saves again may differ from what was published."""
    keep = {"both": ("spiece.model", "tokenizer.json"), "spiece": ("spiece.model",), "json": ("tokenizer.json",)}[r.tokenizer_files]
    shutil.rmtree(to)
    to.mkdir()
    for name in (*keep, "tokenizer_config.json", "special_tokens_map.json"):
        if (source / name).exists():
            shutil.copyfile(source / name, to / name)
        elif name in keep and r.tokenizer_files != "both":
            sys.exit(f"make_checkpoint: {source / name}: no such file")


def drop_defaults(config: pathlib.Path, cls: type) -> None:
    """Leaves out of a config.json what the class assumes anyway."""
    defaults = {k: p.default for k, p in inspect.signature(cls.__init__).parameters.items()}
    values = json.loads(config.read_text())
    plain = {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
    kept = {k: v for k, v in values.items() if k.startswith("_") or plain.get(k, inspect.Parameter.empty) != v}
    config.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n")


def write(r: Recipe, out: pathlib.Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / "model_index.json").exists():
        sys.exit(f"make_checkpoint: {out}: exists and is no pipeline directory; nothing was written")
    if len(r.vae_temporal) != len(r.vae_mult) - 1:
        sys.exit(f"make_checkpoint: --vae-temporal has {len(r.vae_temporal)} entries, --vae-mult {len(r.vae_mult)}: one fewer is needed")
    source = pathlib.Path(r.tokenizer) if pathlib.Path(r.tokenizer).is_absolute() else ROOT / r.tokenizer
    tokenizer = AutoTokenizer.from_pretrained(source)
    generator = torch.Generator().manual_seed(r.seed)
    pipe = WanPipeline(tokenizer=tokenizer, text_encoder=make_text_encoder(r, generator, len(tokenizer)),
                       transformer=make_denoiser(r, generator, r.transformer_dtype), vae=make_vae(r, generator), scheduler=make_scheduler(r),
                       transformer_2=make_denoiser(r, generator, r.second_dtype) if r.experts > 1 else None,
                       boundary_ratio=r.boundary if r.experts > 1 else None)
    shutil.rmtree(out, ignore_errors=True)
    pipe.save_pretrained(out, safe_serialization=True, max_shard_size=r.shard)
    publish_tokenizer(r, source, out / "tokenizer")
    for f in out.rglob("*"):  # weights are written readable by their owner only
        f.chmod(0o755 if f.is_dir() else 0o644)
    if r.sparse_config:
        for name in ("transformer", "transformer_2")[:r.experts]:
            drop_defaults(out / name / "config.json", WanTransformer3DModel)
        drop_defaults(out / "vae" / "config.json", AutoencoderKLWan)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    names = ("transformer", "transformer_2", "text_encoder", "vae")
    counts = ", ".join(f"{n} {sum(p.numel() for p in getattr(pipe, n).parameters()):,}" for n in names if getattr(pipe, n) is not None)
    print(f"{out}: {size:,} bytes; parameters: {counts}")


# --------------------------------------------------------------------------------------------------------------- options


def integers(text: str) -> tuple[int, ...]:
    return tuple(int(v) for v in text.split(","))


def recipe_from(argv: list[str]) -> tuple[Recipe, pathlib.Path]:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--out", type=pathlib.Path, required=True, help="pipeline directory to write (one that is there is replaced)")
    p.add_argument("--preset", choices=sorted(PRESETS), help="start from these values; other options change single ones")
    for f in dataclasses.fields(Recipe):
        flag, text, default = "--" + f.name.replace("_", "-"), f.metadata["help"], argparse.SUPPRESS
        if isinstance(f.default, bool):
            p.add_argument(flag, action=argparse.BooleanOptionalAction, default=default, help=text)
        else:
            kind = integers if isinstance(f.default, tuple) else type(f.default)
            p.add_argument(flag, type=kind, default=default, choices=f.metadata["choices"], help=f"{text} ({f.default})")
    given = vars(p.parse_args(argv))
    out, preset = given.pop("out"), given.pop("preset")
    return Recipe(**{**PRESETS.get(preset, {}), **given}), out


if __name__ == "__main__":
    transformers_logging.disable_progress_bar()
    recipe, directory = recipe_from(sys.argv[1:])
    write(recipe, directory)
