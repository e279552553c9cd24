"""Runs the published program's reference cases on our networks; the numbers' README tells their format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.utils._pytree import tree_map

from magicanimate.models.hybrid_attention import install_hybrid_attention, set_reference
from magicanimate.models.prompt import EmptyPrompt
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.windows import WindowPlan
from tests.published_layout import (
    fill_module,
    normals,
    tiny_appearance_encoder,
    tiny_controlnet,
    tiny_unet,
    tiny_vae,
)

NOT_A_TARGET = "loop24_cbs2_diff_upstream_mixup"  # the numbers themselves record it as a bug


@dataclass(frozen=True)
class Comparison:
    """One output of one case: its largest deviation and what is allowed."""

    case: str
    output: str
    difference: float
    tolerance: float


def load_cases(folder: Path) -> dict[str, dict[str, Any]]:
    """Case name -> description, without the one that is no target."""
    cases = json.loads((folder / "cases.json").read_text())["cases"]
    return {case["case"]: case for case in cases if case["case"] != NOT_A_TARGET}


def tiny_pipeline(dtype: torch.dtype = torch.float32, *, layers_per_block: int = 2) -> MagicAnimatePipeline:
    """All networks with the weights of the rule; the reference numbers are those of two layers a block."""
    from diffusers import DDIMScheduler

    layers = {"layers_per_block": layers_per_block}
    return MagicAnimatePipeline(
        vae=fill_module("vae", tiny_vae()).to(dtype),
        unet=fill_module("unet", tiny_unet(**layers)).to(dtype),
        appearance_encoder=fill_module("appearance_encoder", tiny_appearance_encoder(**layers)).to(dtype),
        controlnet=fill_module("controlnet", tiny_controlnet(**layers)).to(dtype),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="linear",
            clip_sample=False,
            steps_offset=1,
            timestep_spacing="leading",
        ),
        empty_prompt=EmptyPrompt(num_tokens=77, width=32),
    )


def compare(case: dict[str, Any], folder: Path, pipe: MagicAnimatePipeline) -> list[Comparison]:
    """Run one case, wherever the networks are, and compare every stored output."""
    expected = load_file(folder / case["file"])
    networks = (pipe.unet, pipe.appearance_encoder, pipe.controlnet)
    hooks = [_on_device_of(network) for network in networks]
    try:
        with torch.no_grad():
            outputs = RUNNERS[case["kind"]](case, pipe)
    finally:
        for hook in hooks:
            hook.remove()
    relative = 5e-5 if case["kind"] == "denoise_loop" else 3e-5
    rows = []
    for name, golden in expected.items():
        largest = golden.abs().max().item()
        tolerance = relative * (largest if case["kind"] == "denoise_loop" else max(1.0, largest))
        if case.get("bank") == "float16":
            tolerance = 1e-4 * largest
        difference = (outputs[name].float().cpu() - golden).abs().max().item()
        rows.append(Comparison(case["case"], name, difference, tolerance))
    return rows


def _input(case: dict[str, Any], tensor: str, shape) -> torch.Tensor:
    return normals(f"input/{case.get('input_case', case['case'])}/{tensor}", shape)


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _on_device_of(network: torch.nn.Module):
    """While it lasts, the network takes inputs from the CPU, wherever it is; returns what takes it back."""

    def move(module, args, kwargs):
        device = next(module.parameters()).device
        moved = {key: tree_map(lambda value: _moved(value, device), value) for key, value in kwargs.items()}
        return tuple(_moved(value, device) for value in args), moved

    return network.register_forward_pre_hook(move, with_kwargs=True)


def _image(case: dict[str, Any], tensor: str, shape) -> np.ndarray:
    x = _input(case, tensor, shape).numpy()
    return np.clip(np.rint(x * 48 + 128), 0, 255).astype(np.uint8)


def _bank(case, pipe):
    reference, text = _input(case, "ref_latents", case["ref"]), _input(case, "text", case["text"])
    return {
        f"t{t}/{name}": tokens
        for t in case["timesteps"]
        for name, tokens in pipe.appearance_encoder(reference, torch.tensor(t), text).items()
    }


def _controlnet(case, pipe):
    control = torch.from_numpy(_image(case, "control", case["control"])).movedim(-1, 1).float() / 255
    outputs = {}
    for scale in case["scales"]:
        down, mid = pipe.controlnet(
            _input(case, "latents", case["lat"]),
            torch.tensor(case["t"]),
            _input(case, "text", case["text"]),
            controlnet_cond=control,
            conditioning_scale=scale,
            return_dict=False,
        )
        outputs |= {f"scale{scale}/down.{i}": r for i, r in enumerate(down)} | {f"scale{scale}/mid": mid}
    return outputs


def _residuals(case, batch: int, shape, repeat: int) -> dict[str, Any]:
    """Residuals ``b c f h w`` of a case as the UNet's keyword arguments, ``(b f) c h w``."""
    if not case.get("residuals"):
        return {}
    frames, height, width = shape[2:]
    sizes = [(32, 1), (32, 1), (32, 1), (32, 2), (64, 2), (64, 2), (64, 4), (128, 4), (128, 4)]
    sizes += [(128, 8)] * 4
    found = []
    for i, (channels, factor) in enumerate(sizes):
        name = f"down_residual.{i}" if i < 12 else "mid_residual"
        residual = _input(case, name, (batch, channels, frames, height // factor, width // factor))
        found.append(residual.repeat(repeat, 1, 1, 1, 1).transpose(1, 2).flatten(0, 1))
    return {"down_block_additional_residuals": found[:-1], "mid_block_additional_residual": found[-1]}


def _unet(case, pipe):
    install_hybrid_attention(pipe.unet, fusion="midup")
    latents = _input(case, "latents", case["lat"])
    text = _input(case, "text", case["text"])
    residuals = _residuals(case, case["lat"][0], case["lat"], 1)
    return {"sample": pipe.unet(latents, torch.tensor(case["t"]), text, **residuals).sample}


def _unet_trace(case, pipe):
    """Outputs of the network's parts by the published module paths, ``b c f h w``."""
    frames, outputs, hooks = case["lat"][2], {}, []

    def keep(name):
        def hook(_, __, output):
            output = output[0] if isinstance(output, tuple) else output
            output = getattr(output, "sample", output)
            if output.ndim == 4:
                output = output.unflatten(0, (-1, frames)).transpose(1, 2)
            outputs[name] = output

        return hook

    for name, module in pipe.unet.named_modules():
        hooks.append(module.register_forward_hook(keep(name)))
    outputs |= _unet(case, pipe)
    for hook in hooks:
        hook.remove()
    return outputs


def _unet_reference(case, pipe):
    readers = install_hybrid_attention(pipe.unet, fusion=case["fusion"])
    timestep, text = torch.tensor(case["t"]), _input(case, "text", case["text"])
    bank = pipe.appearance_encoder(_input(case, "ref_latents", case["ref"]), timestep, text[1:])
    if case.get("bank") == "float16":
        bank = {name: tokens.half() for name, tokens in bank.items()}
    set_reference(readers, bank, visible=[False, True])
    shape = [1, *case["lat"][1:]]
    latents = _input(case, "latents", shape).repeat(2, 1, 1, 1, 1)
    sample = pipe.unet(latents, timestep, text, **_residuals(case, 1, shape, 2)).sample
    set_reference(readers, None)
    return {"sample": sample}


def _loop(case, pipe):
    frames, height, width = case["frames"], case["h"], case["w"]
    if case["emb"] == "same":
        unconditional = conditional = _input(case, "text", (1, 77, 32))
    else:
        unconditional, conditional = (_input(case, f"text_{x}", (1, 77, 32)) for x in ("uncond", "cond"))
    image = _image(case, "source", (8 * height, 8 * width, 3))
    guidance = case["guidance"] if case["guidance"] > 1.001 else 1.0  # the recorded 1.0000001 stands for 1
    outputs: dict[str, torch.Tensor] = {"ref_latents": pipe.encode_image(image)}
    if "seed" in case:
        first = pipe.prepare_latents(
            16, image.shape[:2], generator=torch.Generator().manual_seed(case["seed"])
        )
        outputs["initial_noise_16frames"] = first
    steps: list[torch.Tensor] = []
    predictions: list[torch.Tensor] = []
    step, set_timesteps = pipe.scheduler.step, pipe.scheduler.set_timesteps

    def recording_step(prediction, *args, **kwargs):
        predictions.append(prediction)
        return step(prediction, *args, **kwargs)

    def set_last_timesteps(steps, **kwargs):
        set_timesteps(steps, **kwargs)
        pipe.scheduler.timesteps = pipe.scheduler.timesteps[-case.get("num_actual_inference_steps", steps) :]

    pipe.scheduler.step, pipe.scheduler.set_timesteps = recording_step, set_last_timesteps
    as_published = lambda *args: {name: y_a.half() for name, y_a in args[-1].items()}  # noqa: E731
    rounding = case.get("bank") == "float16" and pipe.appearance_encoder.register_forward_hook(as_published)
    try:
        result = pipe(
            image,
            _image(case, "control", (frames, 8 * height, 8 * width, 3)),
            num_inference_steps=case["steps"],
            guidance_scale=guidance,
            seed=case.get("seed", 0),
            latents=None if "seed" in case else _input(case, "latents", (1, 4, frames, height, width)),
            prompt=conditional,
            negative_prompt=unconditional,
            fusion=case.get("fusion", "midup"),
            windows=WindowPlan(
                closed_loop=True,
                context_overlap=case.get("context_overlap", 4),
                context_stride=case.get("context_stride", 1),
            ),
            controlnet_conditioning_scale=case.get("controlnet_conditioning_scale", 1.0),
            output_type="latent",
            on_step=lambda _, latents, __: steps.append(latents),
        )
    finally:
        del pipe.scheduler.step, pipe.scheduler.set_timesteps
        if rounding:
            rounding.remove()
    outputs |= {f"latents_after_step.{i}": latents for i, latents in enumerate(steps)}
    outputs |= {"latents": result.latents, "noise_pred.0": predictions[0]}
    if "decode_frames" in case:
        latents = result.latents[0, :, case["decode_frames"]].transpose(0, 1)
        decoded = (pipe.vae.decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1)
        outputs["frames"] = decoded.transpose(0, 1)[None]
    return outputs


RUNNERS = {
    "appearance_bank": _bank,
    "controlnet": _controlnet,
    "unet3d": _unet,
    "unet3d_trace": _unet_trace,
    "unet3d_reference": _unet_reference,
    "denoise_loop": _loop,
}
