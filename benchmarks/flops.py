"""Counts the arithmetic of one denoising step, on torch's "meta" device: shapes only, nothing is computed.

    python -m benchmarks.flops [--frames 16 40 125] [--size 512]
    python -m benchmarks.flops --presets

The published arithmetic is that of `benchmarks.published`, the clip padded to a multiple of 16 frames.
Networks of Stable Diffusion 1.5's size, guidance, windows of 16 frames with overlap 4.

With ``--presets`` the arithmetic of one window in a whole animation of 25 steps, by preset
(`magicanimate.acceleration.options`), with the decoding of its frames.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published import PLAN, published_networks
from magicanimate import sampling
from magicanimate.acceleration.deep_cache import cached_step
from magicanimate.acceleration.layers import (
    CachedEmbeddings,
    WindowProgress,
    sequential_guidance,
    share_residuals,
)
from magicanimate.acceleration.options import speed_preset
from magicanimate.checkpoints.layout import SCHEDULER
from magicanimate.config import PRESETS
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.hybrid_attention import hybrid_attention
from magicanimate.models.prompt import EmptyPrompt
from magicanimate.models.unet import VideoUNet
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.windows import WindowPlan

SD15_CHANNELS = (320, 640, 1280, 1280)
TEXT_TOKENS = 77


@dataclass(frozen=True)
class Networks:
    """The three networks of a denoising step."""

    unet: VideoUNet
    encoder: AppearanceEncoder
    controlnet: ControlNetModel


def build_networks(
    channels: Sequence[int] = SD15_CHANNELS, *, text_width: int = 768, layers: int = 2
) -> Networks:
    """Networks of Stable Diffusion 1.5's topology with random weights, in eval mode.

    Args:
        channels: widths of the levels.
        text_width: of the text's tokens.
        layers: of a block; Stable Diffusion has two.
    """
    common = {
        "block_out_channels": tuple(channels),
        "cross_attention_dim": text_width,
        "layers_per_block": layers,
    }
    return Networks(
        VideoUNet(
            num_attention_heads=8,
            motion_num_attention_heads=8,
            motion_max_seq_length=24,
            use_motion_mid_block=False,
            **common,
        ).eval(),
        AppearanceEncoder(attention_head_dim=8, **common).eval(),
        ControlNetModel(attention_head_dim=8, **common).eval(),
    )


def build_pipeline(
    channels: Sequence[int] = SD15_CHANNELS,
    *,
    text_width: int = 768,
    layers: int = 2,
    vae_channels: Sequence[int] = (128, 256, 512, 512),
    keypoints: bool = False,
) -> MagicAnimatePipeline:
    """A whole pipeline with random weights; by default of Stable Diffusion 1.5's size.

    Args:
        channels, text_width, layers: see `build_networks`.
        vae_channels: widths of the autoencoder.
        keypoints: with a second ControlNet.
    """
    networks = build_networks(channels, text_width=text_width, layers=layers)
    vae = AutoencoderKL(
        block_out_channels=tuple(vae_channels),
        down_block_types=("DownEncoderBlock2D",) * len(vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(vae_channels),
        layers_per_block=2,
    )
    second = None
    if keypoints:
        second = ControlNetModel.from_config(networks.controlnet.config).eval()
    return MagicAnimatePipeline(
        vae=vae.eval(),
        unet=networks.unet,
        appearance_encoder=networks.encoder,
        controlnet=networks.controlnet,
        scheduler=DDIMScheduler(**SCHEDULER),
        empty_prompt=EmptyPrompt(num_tokens=TEXT_TOKENS, width=text_width),
        controlnet_keypoints=second,
    )


@contextlib.contextmanager
def meta_layers(
    networks: Networks, *, frames: int, size: int, published: bool
) -> Iterator[tuple[sampling.Networks, sampling.Networks]]:
    """What the sampling loop calls, on the "meta" device: guided, and of the conditional branch alone.

    Args:
        networks: on the "meta" device.
        frames: of the clip.
        size: side of the picture in pixels.
        published: in the published order of work, else in the default one of this program.
    """
    side, width = size // 8, networks.unet.config.cross_attention_dim
    with torch.device("meta"):
        text, photo = torch.empty(2, TEXT_TOKENS, width), torch.empty(1, 4, side, side)
    images = np.broadcast_to(np.zeros((), np.uint8), (frames, size, size, 3))
    kept = CachedEmbeddings(networks.controlnet, images)
    controls = [(networks.controlnet, images) if published else (kept, kept)]
    with torch.inference_mode(), hybrid_attention(networks.unet, fusion="midup") as readers:
        paper = partial(
            sampling.paper_networks, networks.unet, networks.encoder, controls, readers, photo=photo
        )
        conditional = paper(text=text[1:])
        if published:
            progress = WindowProgress([], None, None, processes=1)
            yield published_networks(paper, networks.unet, readers, text, progress=progress), conditional
        else:
            branches = [paper(text=text[:1], visible=[False]), conditional]
            layers = sequential_guidance(paper(text=text), branches, networks.unet, share_down=True)
            yield share_residuals(layers), conditional


def count_step(networks: Networks, *, frames: int, size: int, published: bool) -> dict[str, float]:
    """TFLOP of one step by network (2 for a multiply-add), once the control images are embedded.

    Args:
        networks, size, published: see `meta_layers`.
        frames: of the clip.
    """
    windows = step_windows(frames, published=published)
    frames = 1 + max(frame for window in windows for frame in window)  # with the padding
    plan, timestep, side = WindowPlan(), torch.tensor(500), size // 8
    found = dict.fromkeys(("appearance encoder", "ControlNet", "UNet"), 0.0)

    def counted(name: str, function: Callable) -> Callable:
        def count(*args, **kwargs):
            with FlopCounterMode(display=False) as counter:
                out = function(*args, **kwargs)
            found[name] += counter.get_total_flops() / 1e12
            return out

        return count

    with meta_layers(networks, frames=frames, size=size, published=published) as (layers, _):
        latents = torch.empty(1, 4, frames, side, side, device="meta")
        if not published:
            layers.control(list(range(frames)), latents[0].transpose(0, 1), timestep)  # embeds the images
        layers = replace(
            layers,
            encode=counted("appearance encoder", layers.encode),
            fuse=counted("UNet", layers.fuse),
        )
        controlnet = networks.controlnet.forward
        networks.controlnet.forward = counted("ControlNet", controlnet)
        on_meta = [
            sampling.Window(window, *(torch.tensor(x, device="meta") for x in (window, plan.weights(window))))
            for window in windows
        ]
        layers.show(layers.encode(timestep))
        layers.fuse(layers, latents, timestep, on_meta)
        del networks.controlnet.forward
    found["UNet"] -= found["ControlNet"]
    return found


def step_windows(frames: int, *, published: bool) -> list[list[int]]:
    """The windows of a step; the published ones are a closed loop over the padded clip."""
    if published:
        return PLAN.windows(-(-frames // 16) * 16)
    return WindowPlan().windows(frames)


def table(networks: Networks, *, frames: Sequence[int], size: int) -> str:
    """Markdown: a row for each network and the sum, for each clip length."""
    lines = ["| frames (windows) | part | published, TFLOP | this, TFLOP | ratio |", "|---|---|---|---|---|"]
    for number in frames:
        published, ours = (
            count_step(networks, frames=number, size=size, published=choice) for choice in (True, False)
        )
        published["all"], ours["all"] = sum(published.values()), sum(ours.values())
        windows = [len(step_windows(number, published=choice)) for choice in (True, False)]
        where = f"{number} ({windows[0]}; {windows[1]})"
        for part, spent in published.items():
            ratio = ours[part] / spent
            lines.append(f"| {where} | {part} | {spent:.2f} | {ours[part]:.2f} | {ratio:.3f} |")
    return "\n".join(lines)


def count_kinds(networks: Networks, *, size: int) -> dict[tuple[int, bool], float]:
    """TFLOP of one step of a window of 16 frames by branches (1 or 2) and whether cached.

    A full step has its share of appearance encoder and ControlNet.
    """
    frames, side, timestep = list(range(16)), size // 8, torch.tensor(500)
    width, channels = networks.unet.config.cross_attention_dim, networks.unet.config.block_out_channels[0]
    with torch.device("meta"):
        clip, deep = torch.empty(1, 4, 16, side, side), torch.empty(16, channels, side, side)
        text = torch.empty(16, TEXT_TOKENS, width)
    found = {}

    def count(function: Callable, *args) -> float:
        with FlopCounterMode(display=False) as counter:
            function(*args)
        return counter.get_total_flops() / 1e12

    with meta_layers(networks, frames=16, size=size, published=False) as (guided, conditional):
        noisy = clip[0].transpose(0, 1)
        residuals = guided.control(frames, noisy, timestep)  # embeds the images
        guided.show(guided.encode(timestep))
        once = count(guided.encode, timestep) + count(conditional.control, frames, noisy, timestep)
        cached = count(cached_step, networks.unet, clip, timestep, text, deep, residuals[0])
        for branches, layers in ((2, guided), (1, conditional)):
            found[branches, False] = once + count(layers.predict, frames, clip, timestep, residuals)
            found[branches, True] = branches * cached
    return found


def count_decoding(*, frames: int, size: int) -> float:
    """TFLOP of Stable Diffusion's picture decoder."""
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        latents = torch.empty(1, 4, size // 8, size // 8)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        vae.decode(latents)
    return frames * counter.get_total_flops() / 1e12


def preset_table(networks: Networks, *, size: int, steps: int = 25) -> str:
    """Markdown: a row for each preset of a checkpoint of ``steps`` steps."""
    kinds, decoding = count_kinds(networks, size=size), count_decoding(frames=16, size=size)
    lines = [
        "| preset | steps | in full | cached | guided | TFLOP | ratio | with decoding |",
        "|---" * 8 + "|",
    ]
    first = 0.0
    for name in PRESETS:
        preset = speed_preset(name)
        number, spent, last, counts = preset.steps(steps), 0.0, None, Counter()
        for i in range(number):
            branches = 2 if preset.approximations.guides(i, number) else 1
            timestep = 1000 - i * 1000 // number
            is_cached = last is not None and last - timestep <= preset.approximations.deep_reuse
            last = last if is_cached else timestep
            spent += kinds[branches, is_cached]
            counts.update({"cached": is_cached, "guided": branches == 2})
        first = first or spent
        ratios = f"{first / spent:.2f} | {(first + decoding) / (spent + decoding):.2f}"
        steps_of = f"{number} | {number - counts['cached']} | {counts['cached']} | {counts['guided']}"
        lines.append(f"| {name} | {steps_of} | {spent:.1f} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[16, 40, 125])
    parser.add_argument("--size", type=int, default=512, help="side in pixels (%(default)s)")
    parser.add_argument("--presets", action="store_true", help="whole animations by preset instead")
    args = parser.parse_args()
    with torch.device("meta"):
        networks = build_networks()
    if args.presets:
        print(preset_table(networks, size=args.size))
    else:
        print(table(networks, frames=args.frames, size=args.size))


if __name__ == "__main__":
    main()
