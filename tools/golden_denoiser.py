"""Golden data of the denoiser: one file per model, every stage of WanTransformer3DModel from prompt to velocity.

Names in tests/golden/denoiser_MODEL.safetensors (all float32 unless said; S tokens, D hidden, L ids):

    latent                       [1, C, T, h, w]   the input, noise of seed 3
    timesteps                    [n]               the ones below, in this order; one of them is not a whole number
    BRANCH.ids                   [L] i64           BRANCH is cond, uncond ("", L = 1) or, for one model, long (L = 512)
    BRANCH.rows                  [L, text_dim]     of the text encoder; rows from L to 512 are zero and not stored
    BRANCH.text                  [L + 1, D]        after text_embedder; the last row is what all padding becomes (none when L = 512)
    tN.modulation.output         [D]               N numbers the timesteps
    tN.modulation.blocks         [6, D]            before the blocks add their tables
    tN.BRANCH.velocity           [1, C, T, h, w]
    t2.cond.hidden.embed         [S, D]            after the patch embedding
    t2.cond.hidden.B             [S, D]            after block B: the first two and the last
"""
from __future__ import annotations

import contextlib
import copy
import pathlib
from unittest import mock

import torch

import reference_pipeline as reference

TIMESTEPS = [999.0, 857.6923, 721.0, 60.0]
WATCHED = 2  # the timestep whose hidden states are kept
PROMPT = "a small orange ring moving left and a large white cross spinning on a teal background"
# Latent sizes differ in every direction, so that a swapped axis cannot pass. (width, height, frames)
MODELS = {
    "reference": ("models/reference", 64, 64, 17),
    "tiny-a": ("tests/models/tiny-a", 80, 48, 9),
    "tiny-b": ("tests/models/tiny-b", 48, 80, 9),
    "tiny-c": ("tests/models/tiny-c", 48, 32, 13),
}
LONG = "tiny-a"  # also runs a prompt that is cut at 512 ids, where there is no padding


def branches(name: str) -> dict[str, str]:
    found = {"cond": PROMPT, "uncond": ""}
    if name == LONG:
        found["long"] = " and ".join([PROMPT] * 40)
    return found


class Watch:
    """Keeps what chosen modules of the transformer put out during one forward."""

    def __init__(self, transformer):
        last = len(transformer.blocks) - 1
        self.kept: dict[str, torch.Tensor] = {}
        self.handles = [transformer.condition_embedder.register_forward_hook(self.condition),
                        transformer.patch_embedding.register_forward_hook(self.embed)]
        for i in sorted({0, min(1, last), last}):
            self.handles.append(transformer.blocks[i].register_forward_hook(lambda _m, _in, out, i=i: self.keep(f"hidden.{i}", out)))

    def keep(self, name: str, value: torch.Tensor) -> None:
        self.kept[name] = value[0].clone()

    def condition(self, _module, _inputs, out) -> None:
        temb, projection, text, _image = out
        self.keep("output", temb)
        self.keep("blocks", projection.unflatten(1, (6, -1)))
        self.keep("text", text)

    def embed(self, _module, _inputs, out) -> None:
        self.keep("hidden.embed", out.flatten(2).transpose(1, 2))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


@torch.no_grad()
def collect(name: str, model: str, width: int, height: int, frames: int) -> dict[str, torch.Tensor]:
    pipe = reference.load(model)
    config = pipe.transformer.config
    shape = (1, config.in_channels, (frames - 1) // pipe.vae_scale_factor_temporal + 1, height // pipe.vae_scale_factor_spatial,
             width // pipe.vae_scale_factor_spatial)
    latent = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    data = {"latent": latent, "timesteps": torch.tensor(TIMESTEPS)}
    for branch, prompt in branches(name).items():
        ids, rows = reference.encode(pipe, prompt)
        assert not rows[len(ids):].any()
        data |= {f"{branch}.ids": ids, f"{branch}.rows": rows[: len(ids)]}
        for n, t in enumerate(TIMESTEPS):
            watch = Watch(pipe.transformer)
            velocity = pipe.transformer(hidden_states=latent, timestep=torch.tensor([t]), encoder_hidden_states=rows[None]).sample
            watch.remove()
            text = watch.kept["text"]
            assert all(torch.allclose(row, text[-1], rtol=1e-5, atol=1e-5) for row in text[len(ids):])
            data |= {f"{branch}.text": text[: len(ids) + 1], f"t{n}.modulation.output": watch.kept["output"],
                     f"t{n}.modulation.blocks": watch.kept["blocks"], f"t{n}.{branch}.velocity": velocity}
            if n == WATCHED and branch == "cond":
                data |= {f"t{n}.{branch}.{k}": v for k, v in watch.kept.items() if k.startswith("hidden.")}
    return data


def make(out_dir: pathlib.Path) -> None:
    for name, (model, width, height, frames) in MODELS.items():
        facts = {"model": model, "prompt": PROMPT, "width": width, "height": height, "frames": frames, "latent_seed": 3}
        reference.save(out_dir / f"denoiser_{name}.safetensors", collect(name, model, width, height, frames), facts)


def floor() -> list[dict]:
    """Distance of float32 velocities from the same modules in float64, by model: the reference's own rounding."""
    found = []
    for name, (model, *size) in MODELS.items():
        transformer = reference.load(model).transformer
        exact = copy.deepcopy(transformer).double()
        data, worst = collect(name, model, *size), 0.0
        for branch in branches(name):
            rows = torch.nn.functional.pad(data[f"{branch}.rows"], (0, 0, 0, reference.TEXT_LENGTH - len(data[f"{branch}.rows"])))[None]
            for n, t in enumerate(TIMESTEPS):
                with torch.no_grad(), wide_casts():
                    want = exact(hidden_states=data["latent"].double(), timestep=torch.tensor([t]), encoder_hidden_states=rows.double()).sample
                worst = max(worst, reference.relative_l2(data[f"t{n}.{branch}.velocity"], want))
        found.append({"model": model, "velocity_from_float64": worst})
    return found


def wide_casts() -> contextlib.AbstractContextManager:
    """The modules say .float() around norms and modulation; here that means double."""
    return mock.patch.object(torch.Tensor, "float", torch.Tensor.double)
