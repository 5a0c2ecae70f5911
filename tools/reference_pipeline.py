"""The reference: diffusers' own WanPipeline, run as published, with its insides recorded.

    pipe = load("models/reference")
    result = run(pipe, Request(model="models/reference", prompt="a red circle", steps=10, width=64, height=64, frames=17))
    result.latents, result.frames, result.velocities[3]

Nothing of the method is repeated here: tokenizer, text encoder, loop, solver and decoder are the libraries'. What is
recorded is taken at their seams: the velocity where the pipeline hands it to the scheduler, the latent in the
pipeline's callback. Everything is float32 unless a dtype is asked for.
"""
from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a model is a directory; nothing is ever downloaded

import diffusers
import safetensors
import safetensors.torch
import torch
import transformers
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler, WanPipeline

ROOT = pathlib.Path(__file__).resolve().parent.parent
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
TEXT_LENGTH = 512  # WanPipeline's max_sequence_length


@dataclasses.dataclass
class Request:
    """One video; the fields are the client's options, the defaults the reference pipeline's."""

    model: str
    prompt: str
    negative: str = ""
    seed: int = 0
    steps: int = 50
    guidance: float = 5.0
    guidance_2: float | None = None  # of a second expert's steps; None: guidance
    width: int = 832
    height: int = 480
    frames: int = 81
    solver: str | None = None  # "unipc" or "euler"; None: the model's
    shift: float | None = None  # None: the model's


@dataclasses.dataclass
class Result:
    noise: torch.Tensor  # [1, C, T, h, w], where the run started
    timesteps: torch.Tensor  # [steps], what the denoiser was told
    sigmas: torch.Tensor  # [steps + 1]
    velocities: list[torch.Tensor]  # steps of [1, C, T, h, w], after guidance
    steps: list[torch.Tensor]  # the latent after each step
    frames: torch.Tensor  # [1, F, 3, H, W] in 0..1

    @property
    def latents(self) -> torch.Tensor:
        return self.steps[-1]


def quiet() -> None:
    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def versions() -> dict[str, str]:
    return {"torch": torch.__version__, "diffusers": diffusers.__version__, "transformers": transformers.__version__}


@functools.lru_cache(maxsize=2)
def load(model: str | pathlib.Path, dtype: torch.dtype = torch.float32, vae_dtype: torch.dtype | None = None) -> WanPipeline:
    """model: a directory, absolute or below the repository's root. vae_dtype: the same as dtype when None."""
    quiet()
    if not diffusers.utils.is_ftfy_available():  # the pipeline then cleans prompts less, and says nothing
        raise ModuleNotFoundError("ftfy is missing: prompts would be cleaned differently")
    directory = pathlib.Path(model)
    if not directory.is_absolute() and not directory.exists():
        directory = ROOT / directory
    if not (directory / "model_index.json").is_file():
        raise FileNotFoundError(f"{directory}: no model_index.json there")
    pipe = WanPipeline.from_pretrained(str(directory), dtype={"default": dtype, "vae": vae_dtype or dtype}, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    if dtype == torch.float32:  # a component left in half precision would be no reference
        for name in ("text_encoder", "transformer", "transformer_2", "vae"):
            component = getattr(pipe, name)
            assert component is None or all(p.dtype == torch.float32 for p in component.parameters()), name
    return pipe


def solver_of(pipe: WanPipeline) -> tuple[str, float]:
    config = pipe.scheduler.config
    if isinstance(pipe.scheduler, UniPCMultistepScheduler):
        return "unipc", float(config.flow_shift)
    return "euler", float(config.shift)


def scheduler_for(pipe: WanPipeline, solver: str | None, shift: float | None):
    """The model's own scheduler with another shift, or the flow-matching form of the other class over as many train steps."""
    own, own_shift = solver_of(pipe)
    solver, shift = solver or own, own_shift if shift is None else shift
    if solver == own:
        key = "flow_shift" if own == "unipc" else "shift"
        return type(pipe.scheduler).from_config(pipe.scheduler.config, **{key: shift})
    trained = pipe.scheduler.config.num_train_timesteps
    if solver == "euler":
        return FlowMatchEulerDiscreteScheduler(shift=shift, num_train_timesteps=trained)
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, num_train_timesteps=trained)


@torch.no_grad()
def encode(pipe: WanPipeline, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """ids [L] and the text encoder's rows [512, width], zero beyond L, as the pipeline makes them."""
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    ids = pipe.tokenizer([prompt_clean(prompt)], max_length=TEXT_LENGTH, truncation=True, add_special_tokens=True,
                         return_tensors="pt").input_ids[0]
    rows, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=TEXT_LENGTH)
    return ids, rows[0]


@torch.no_grad()
def run(pipe: WanPipeline, r: Request, noise: torch.Tensor | None = None, after=None) -> Result:
    """One call of the pipeline. noise replaces the seed's, when given; after(pipe, index) is called behind each step and
    may give back tensors for the next ones, as the pipeline's callback may."""
    own = pipe.scheduler
    pipe.scheduler = scheduler_for(pipe, r.solver, r.shift)
    inputs, velocities, steps = [], [], []
    step = pipe.scheduler.step

    def recording_step(velocity, t, sample, **kwargs):
        inputs.append(sample.clone())
        velocities.append(velocity.clone())
        return step(velocity, t, sample, **kwargs)

    def after_step(_pipe, _index, _t, tensors):
        steps.append(tensors["latents"].clone())
        return after(_pipe, _index) if after else {}

    pipe.scheduler.step = recording_step
    try:
        frames = pipe(prompt=r.prompt, negative_prompt=r.negative, width=r.width, height=r.height, num_frames=r.frames,
                      num_inference_steps=r.steps, guidance_scale=r.guidance, guidance_scale_2=r.guidance_2,
                      generator=torch.Generator().manual_seed(r.seed), latents=noise, callback_on_step_end=after_step, output_type="pt").frames
        return Result(inputs[0], pipe.scheduler.timesteps.clone(), pipe.scheduler.sigmas.clone(), velocities, steps, frames)
    finally:
        pipe.scheduler = own


def save(path: pathlib.Path, tensors: dict[str, torch.Tensor], facts: dict[str, object] | None = None) -> None:
    """One safetensors file whose metadata says which libraries made it, from what. One entry, because the library
    writes several in random order and equal data should make equal files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = json.dumps({**versions(), **(facts or {})}, default=str, sort_keys=True)
    safetensors.torch.save_file({k: v.contiguous().clone() for k, v in tensors.items()}, path, {"made": made})
    path.chmod(0o644)


def relative_l2(a: torch.Tensor, b: torch.Tensor) -> float:
    """||a - b|| / ||b|| in double; b is the reference."""
    a, b = a.double().flatten(), b.double().flatten()
    return ((a - b).norm() / b.norm().clamp_min(1e-300)).item()


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """dB, for values in 0..1."""
    error = (a.double() - b.double()).square().mean().item()
    return float("inf") if error == 0 else -10 * torch.log10(torch.tensor(error, dtype=torch.float64)).item()
