"""Counts the arithmetic of one denoising step, on torch's "meta" device: shapes only, nothing is computed.

    python -m benchmarks.flops [--frames 16 40 125] [--size 512]
    python -m benchmarks.flops --presets

The published arithmetic is that of `benchmarks.published`, the clip padded to a multiple of 16 frames.
Networks of Stable Diffusion 1.5's size, guidance, windows of 16 frames with overlap 4.

With ``--presets`` the arithmetic of one window in a whole animation of 25 steps, by preset
(`magicanimate.presets`), with the decoding of its frames.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.published import PLAN, install_published_attention
from magicanimate.checkpoints.architectures import SCHEDULER
from magicanimate.config import PRESETS
from magicanimate.models.appearance_encoder import AppearanceEncoder
from magicanimate.models.control_maps import control_maps
from magicanimate.models.prompt import EmptyPrompt
from magicanimate.models.reference import install_attention, set_reference, set_visible
from magicanimate.models.shared_skips import shared_skips
from magicanimate.models.unet import Turns, VideoUNet
from magicanimate.pipeline import MagicAnimatePipeline
from magicanimate.presets import speed_preset
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


def count_step(networks: Networks, *, frames: int, size: int, published: bool) -> dict[str, float]:
    """TFLOP of one step by network (2 for a multiply-add).

    What is kept for the whole animation (keys of the text, maps of the driving frames) is there already.

    Args:
        networks: on the "meta" device.
        frames: of the clip.
        size: side of the picture in pixels.
        published: the published order of work, else the default one of this program.
    """
    windows = step_windows(frames, published=published)
    frames = 1 + max(frame for window in windows for frame in window)  # with the padding
    length = len(windows[0])
    side, width = size // 8, networks.unet.config.cross_attention_dim
    with torch.device("meta"):
        text, timestep = torch.empty(1, TEXT_TOKENS, width), torch.empty((), dtype=torch.int64)
        reference, control = torch.empty(1, 4, side, side), torch.empty(length, 3, size, size)
    readers = install_attention(networks.unet, networks.controlnet, fusion="midup", keep_keys=not published)
    found = {}
    encoder_batch = 2 if published else 1
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        bank = networks.encoder(
            reference.expand(encoder_batch, -1, -1, -1), timestep, text.expand(encoder_batch, -1, -1)
        )
    found["appearance encoder"] = counter.get_total_flops() / 1e12
    bank = {name: tokens[:1] for name, tokens in bank.items()}

    def run_control(*, unknown: int) -> list[torch.Tensor]:
        down, mid = networks.controlnet(
            reference.expand(length, -1, -1, -1),
            timestep,
            text.expand(length, -1, -1) if published else text,
            controlnet_cond=control[:unknown],
            return_dict=False,
        )
        return [*down, mid]

    def run_window() -> None:
        given = residuals
        clip = reference[:, :, None].expand(-1, -1, length, -1, -1)
        if published:
            given = [residual.repeat(2, 1, 1, 1) for residual in residuals]
            inputs, turns = (clip.expand(2, -1, -1, -1, -1), timestep, text.expand(2, -1, -1)), {}
        else:
            show = [False, True]
            inputs = (clip, timestep)
            before = lambda i: set_visible(readers, [show[i]])  # noqa: E731
            turns = {"turns": Turns([text, text], before, share_down=True, skips=skips)}
        networks.unet(
            *inputs,
            down_block_additional_residuals=given[:-1],
            mid_block_additional_residual=given[-1],
            **turns,
        )

    with torch.inference_mode(), contextlib.ExitStack() as stack:
        if not published:
            maps = stack.enter_context(control_maps(networks.controlnet))
            maps.frames = range(length)
            skips = stack.enter_context(shared_skips(networks.unet))
        residuals = run_control(unknown=length)
        with FlopCounterMode(display=False) as counter:
            run_control(unknown=length if published else 0)
        found["ControlNet"] = counter.get_total_flops() / 1e12 * frames / length
        if published:
            install_published_attention(networks.unet, bank)
        else:
            run_window()  # projects the text, which then is known
            set_reference(readers, bank)
        counts = []
        for _ in windows[:2]:  # the first window of a step projects the reference
            with FlopCounterMode(display=False) as counter:
                run_window()
            counts.append(counter.get_total_flops() / 1e12)
        found["UNet"] = counts[0] + counts[-1] * (len(windows) - 1)
    set_reference(readers, None)
    return found


def step_windows(frames: int, *, published: bool) -> list[list[int]]:
    """The windows of a step: open, or a ring over the padded clip."""
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
    """TFLOP of one step of a window of 16 frames by branches (1 or 2) and whether at the surface only.

    A full step has its share of appearance encoder and ControlNet.
    """
    length, side, width = 16, size // 8, networks.unet.config.cross_attention_dim
    with torch.device("meta"):
        text, timestep = torch.empty(1, TEXT_TOKENS, width), torch.empty((), dtype=torch.int64)
        reference, control = torch.empty(1, 4, side, side), torch.empty(length, 3, size, size)
        deep = torch.empty(length, networks.unet.config.block_out_channels[0], side, side)
    readers = install_attention(networks.unet, networks.controlnet, fusion="midup", keep_keys=True)
    clip, found = reference[:, :, None].expand(-1, -1, length, -1, -1), {}
    with torch.inference_mode(), contextlib.ExitStack() as stack:
        maps = stack.enter_context(control_maps(networks.controlnet))
        maps.frames = range(length)
        skips = stack.enter_context(shared_skips(networks.unet))
        for known in (False, True):  # the second time texts and driving frames are
            with FlopCounterMode(display=False) as once:
                set_reference(readers, networks.encoder(reference, timestep, text))
                down, mid = networks.controlnet(
                    reference.expand(length, -1, -1, -1),
                    timestep,
                    text,
                    controlnet_cond=control[: 0 if known else length],
                    return_dict=False,
                )
        for branches, surface in itertools.product((2, 1), (False, True)):
            show = [False, True][-branches:]
            turns = Turns(
                [text] * branches,
                lambda i, show=show: set_visible(readers, [show[i]]),
                share_down=True,
                deep=[deep] * branches if surface else None,
                skips=skips,
            )
            with FlopCounterMode(display=False) as counter:
                networks.unet(
                    clip,
                    timestep,
                    turns=turns,
                    down_block_additional_residuals=down,
                    mid_block_additional_residual=mid,
                )
            flops = counter.get_total_flops() + (0 if surface else once.get_total_flops())
            found[branches, surface] = flops / 1e12
    set_reference(readers, None)
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
        "| preset | steps | in full | at the surface | guided | TFLOP | ratio | with decoding |",
        "|---" * 8 + "|",
    ]
    first = 0.0
    for name in PRESETS:
        preset = speed_preset(name)
        number, spent, last, counts = preset.steps(steps), 0.0, None, Counter()
        for i in range(number):
            branches = 2 if preset.shortcuts.guides(i, number) else 1
            timestep = 1000 - i * 1000 // number
            surface = last is not None and last - timestep <= preset.shortcuts.deep_reuse
            last = last if surface else timestep
            spent += kinds[branches, surface]
            counts.update({"surface": surface, "guided": branches == 2})
        first = first or spent
        ratios = f"{first / spent:.2f} | {(first + decoding) / (spent + decoding):.2f}"
        steps_of = f"{number} | {number - counts['surface']} | {counts['surface']} | {counts['guided']}"
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
