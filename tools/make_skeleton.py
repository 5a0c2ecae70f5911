#!/usr/bin/env python3
"""Writes a checkpoint without its data: configurations, and safetensors files that are their heads and then a hole.

    tools/make_skeleton.py --preset wan-14b --out runs/wan-14b
    tools/make_skeleton.py --config models/reference --out runs/bones        the same shapes as a checkpoint that is there
    refrain-worker --plan-memory runs/wan-14b --size 1280x720x81 --ranks 0 --memory 40G

For planning memory (docs/gpu.md). The files are sparse: as long as the real ones, and take a few blocks of the disk. The
tokenizer is that of models/reference; it knows fewer words, which does not change a byte of what is planned.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import shutil
import struct

ROOT = pathlib.Path(__file__).resolve().parent.parent

WAN_VAE = {"_class_name": "AutoencoderKLWan", "base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
           "attn_scales": [], "temperal_downsample": [False, True, True], "dropout": 0.0,
           "latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}
UMT5_XXL = {"architectures": ["UMT5EncoderModel"], "model_type": "umt5", "vocab_size": 256384, "d_model": 4096, "d_kv": 64,
            "d_ff": 10240, "num_layers": 24, "num_heads": 64, "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6, "feed_forward_proj": "gated-gelu",
            "dense_act_fn": "gelu_new", "is_gated_act": True}


def wan(heads: int, ffn: int, layers: int) -> dict:
    return {"_class_name": "WanTransformer3DModel", "patch_size": [1, 2, 2], "num_attention_heads": heads,
            "attention_head_dim": 128, "in_channels": 16, "out_channels": 16, "text_dim": 4096, "freq_dim": 256,
            "ffn_dim": ffn, "num_layers": layers, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads", "eps": 1e-6,
            "image_dim": None, "added_kv_proj_dim": None, "rope_max_seq_len": 1024, "pos_embed_seq_len": None}


# The published Wan 2.1 text-to-video models, and that of Wan 2.2 with two experts.
PRESETS = {"wan-1.3b": wan(12, 8960, 30), "wan-14b": wan(40, 13824, 40), "wan-a14b": wan(40, 13824, 40)}
BOUNDARIES = {"wan-a14b": 0.875}  # boundary_ratio of those with a second expert, of the same sizes

Shapes = dict[str, list[int]]


def dense(shapes: Shapes, name: str, out: int, inputs: list[int]) -> None:
    shapes[name + ".weight"] = [out, *inputs]
    shapes[name + ".bias"] = [out]


def denoiser(c: dict) -> Shapes:
    hidden, s = c["num_attention_heads"] * c["attention_head_dim"], {}
    patch = c["patch_size"]
    dense(s, "patch_embedding", hidden, [c["in_channels"], *patch])
    embed = "condition_embedder."
    dense(s, embed + "time_embedder.linear_1", hidden, [c["freq_dim"]])
    dense(s, embed + "time_embedder.linear_2", hidden, [hidden])
    dense(s, embed + "time_proj", 6 * hidden, [hidden])
    dense(s, embed + "text_embedder.linear_1", hidden, [c["text_dim"]])
    dense(s, embed + "text_embedder.linear_2", hidden, [hidden])
    s["scale_shift_table"] = [1, 2, hidden]
    dense(s, "proj_out", c["out_channels"] * patch[0] * patch[1] * patch[2], [hidden])
    for i in range(c["num_layers"]):
        block = f"blocks.{i}."
        s[block + "scale_shift_table"] = [1, 6, hidden]
        for attention in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                dense(s, f"{block}{attention}.{part}", hidden, [hidden])
            for norm in ("norm_q", "norm_k"):
                s[f"{block}{attention}.{norm}.weight"] = [hidden]
        if c.get("cross_attn_norm", True):
            s[block + "norm2.weight"] = s[block + "norm2.bias"] = [hidden]
        dense(s, block + "ffn.net.0.proj", c["ffn_dim"], [hidden])
        dense(s, block + "ffn.net.2", hidden, [c["ffn_dim"]])
    return s


def text_encoder(c: dict) -> Shapes:
    width, inner, ffn, s = c["d_model"], c["num_heads"] * c["d_kv"], c["d_ff"], {}
    s["shared.weight"] = [c["vocab_size"], width]
    for i in range(c["num_layers"]):
        attention, layer = f"encoder.block.{i}.layer.0.", f"encoder.block.{i}.layer.1."
        for part in "qkv":
            s[f"{attention}SelfAttention.{part}.weight"] = [inner, width]
        s[attention + "SelfAttention.o.weight"] = [width, inner]
        s[attention + "SelfAttention.relative_attention_bias.weight"] = [c["relative_attention_num_buckets"], c["num_heads"]]
        s[attention + "layer_norm.weight"] = s[layer + "layer_norm.weight"] = [width]
        s[layer + "DenseReluDense.wi_0.weight"] = s[layer + "DenseReluDense.wi_1.weight"] = [ffn, width]
        s[layer + "DenseReluDense.wo.weight"] = [width, ffn]
    s["encoder.final_layer_norm.weight"] = [width]
    return s


def resnet(s: Shapes, name: str, before: int, after: int) -> None:
    s[name + ".norm1.gamma"], s[name + ".norm2.gamma"] = [before, 1, 1, 1], [after, 1, 1, 1]
    dense(s, name + ".conv1", after, [before, 3, 3, 3])
    dense(s, name + ".conv2", after, [after, 3, 3, 3])
    if before != after:
        dense(s, name + ".conv_shortcut", after, [before, 1, 1, 1])


def middle(s: Shapes, side: str, channels: int) -> None:
    for i in range(2):
        resnet(s, f"{side}.mid_block.resnets.{i}", channels, channels)
    attention = f"{side}.mid_block.attentions.0"
    s[attention + ".norm.gamma"] = [channels, 1, 1]
    dense(s, attention + ".to_qkv", 3 * channels, [channels, 1, 1])
    dense(s, attention + ".proj", channels, [channels, 1, 1])


def vae(c: dict) -> Shapes:
    base, multiply, z, s = c["base_dim"], c["dim_mult"], c["z_dim"], {}
    decoder_base = c.get("decoder_base_dim") or base
    temporal, last = c["temperal_downsample"], len(multiply) - 1
    colours_in, colours_out = c.get("in_channels", 3), c.get("out_channels", 3)
    dense(s, "encoder.conv_in", base, [colours_in, 3, 3, 3])
    before, index = base, 0
    for i, times in enumerate(multiply):
        for _ in range(c["num_res_blocks"]):
            resnet(s, f"encoder.down_blocks.{index}", before, base * times)
            before, index = base * times, index + 1
        if i < last:
            dense(s, f"encoder.down_blocks.{index}.resample.1", before, [before, 3, 3])
            if temporal[i]:
                dense(s, f"encoder.down_blocks.{index}.time_conv", before, [before, 3, 1, 1])
            index += 1
    middle(s, "encoder", before)
    s["encoder.norm_out.gamma"] = [before, 1, 1, 1]
    dense(s, "encoder.conv_out", 2 * z, [before, 3, 3, 3])
    dense(s, "quant_conv", 2 * z, [2 * z, 1, 1, 1])
    dense(s, "post_quant_conv", z, [z, 1, 1, 1])
    before = decoder_base * multiply[last]
    dense(s, "decoder.conv_in", before, [z, 3, 3, 3])
    middle(s, "decoder", before)
    for i in range(last + 1):
        out, up = decoder_base * multiply[last - i], f"decoder.up_blocks.{i}."
        for j in range(c["num_res_blocks"] + 1):
            resnet(s, f"{up}resnets.{j}", before if j == 0 else out, out)
        before = out
        if i < last:
            before = out // 2
            dense(s, up + "upsamplers.0.resample.1", before, [out, 3, 3])
            if temporal[last - 1 - i]:
                dense(s, up + "upsamplers.0.time_conv", 2 * out, [out, 3, 1, 1])
    s["decoder.norm_out.gamma"] = [before, 1, 1, 1]
    dense(s, "decoder.conv_out", colours_out, [before, 3, 3, 3])
    return s


def write_bones(path: pathlib.Path, shapes: Shapes, dtype: str) -> int:
    size, head, at = {"F32": 4, "BF16": 2}[dtype], {}, 0
    for name, shape in shapes.items():
        count = 1
        for side in shape:
            count *= side
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + count * size]}
        at += count * size
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + at)
    return at // size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), help="a published model")
    parser.add_argument("--config", type=pathlib.Path, help="a pipeline's directory, of which only config.json files are read")
    parser.add_argument("--dtype", choices=["F32", "BF16"], default="BF16", help="of the denoiser and the text encoder")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    options = parser.parse_args()
    if bool(options.preset) == bool(options.config):
        parser.error("one of --preset and --config is needed")
    source = options.config or ROOT / "models/reference"
    index = json.loads((source / "model_index.json").read_text())
    if options.preset:
        configs = {"transformer": PRESETS[options.preset], "text_encoder": UMT5_XXL, "vae": WAN_VAE}
        index["boundary_ratio"] = BOUNDARIES.get(options.preset)
        if options.preset in BOUNDARIES:
            configs["transformer_2"] = PRESETS[options.preset]
            index["transformer_2"] = index["transformer"]
    else:
        second = ["transformer_2"] if (index.get("transformer_2") or [None])[0] else []
        parts = ["transformer", *second, "text_encoder", "vae"]
        configs = {part: json.loads((source / part / "config.json").read_text()) for part in parts}
    for part, make, stem, dtype in (("transformer", denoiser, "diffusion_pytorch_model", options.dtype),
                                    ("transformer_2", denoiser, "diffusion_pytorch_model", options.dtype),
                                    ("text_encoder", text_encoder, "model", options.dtype),
                                    ("vae", vae, "diffusion_pytorch_model", "F32")):
        if part not in configs:
            continue
        (options.out / part).mkdir(parents=True, exist_ok=True)
        (options.out / part / "config.json").write_text(json.dumps(configs[part], indent=1) + "\n")
        count = write_bones(options.out / part / f"{stem}.safetensors", make(configs[part]), dtype)
        print(f"{part}: {count:,} parameters")
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(source / part, options.out / part, dirs_exist_ok=True)
    (options.out / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
