"""The parts of `benchmarks.gpu`: what is measured, and how it is written down."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.flops import build_networks, build_pipeline, count_step
from magicanimate.acceleration.backends import undo_compilation
from magicanimate.acceleration.options import OptimizationConfig, speed_preset
from magicanimate.device import dtype_argument
from magicanimate.files import write_bytes, write_json
from magicanimate.memory import (
    MemoryProfile,
    OutOfMemoryFallback,
    compile_denoisers,
    place,
    profile_named,
    profiles_for,
)

ROOT = Path(__file__).resolve().parents[1]
FULL_STEPS = 25


@dataclass(frozen=True)
class Scale:
    """How large the work is.

    Attributes:
        networks: arguments of `benchmarks.flops.build_pipeline`.
        side: of pictures, pixels.
        frames: of the clip of most rows, and of the one of several windows at once.
        product: side of the large product.
        steps: timed after a first one.
        clip: frames of the training's clips.
        compile: whether ``--compile`` is tried.
    """

    networks: dict[str, Any] = field(default_factory=dict)
    side: int = 512
    frames: int = 24
    many_frames: int = 100
    product: int = 8192
    steps: int = 2
    clip: int = 16
    compile: bool = True


SMALL = Scale(
    networks={"channels": (64,) * 4, "text_width": 32, "layers": 1, "vae_channels": (32,) * 4},
    side=64,
    frames=18,
    many_frames=28,
    product=256,
    steps=1,
    clip=2,
    compile=False,  # takes minutes on a CPU
)


class Report:
    """Rows by part, in a JSON file and as Markdown tables."""

    def __init__(self, folder: Path, about: dict[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.about, self.parts = folder, about, {}

    def add(self, part: str, **row: Any) -> None:
        """Add a row and write both files anew."""
        self.parts.setdefault(part, []).append(row)
        print(f"{part}: " + ", ".join(f"{key} {_text(value)}" for key, value in row.items()), flush=True)
        write_json(self.folder / "gpu.json", {"about": self.about, "parts": self.parts})
        write_bytes(self.folder / "gpu.md", self._markdown().encode())

    def _markdown(self) -> str:
        lines = [", ".join(f"{key}: {value}" for key, value in self.about.items()), ""]
        for part, rows in self.parts.items():
            columns = list(dict.fromkeys(key for row in rows for key in row))
            lines += [f"## {part}", "", f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
            lines += [f"| {' | '.join(_text(row.get(key, '')) for key in columns)} |" for row in rows]
            lines.append("")
        return "\n".join(lines)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class Bench:
    """One run of the benchmark.

    Args:
        device: "cuda", "cuda:1", "mps" or "cpu".
        scale: of the work.
        report: where rows go.
        deadline: `time.monotonic` at which no more work is begun.
    """

    def __init__(self, device: str, scale: Scale, report: Report, deadline: float):
        self.device, self.scale, self.report, self.deadline = device, scale, report, deadline
        self.dtype = torch.float32 if device == "cpu" else torch.float16
        self.is_cuda = device.startswith("cuda")

    # Measuring

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def timed(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Seconds of some work with what it has queued, and its result."""
        self.synchronize()
        began = time.perf_counter()
        result = work()
        self.synchronize()
        return time.perf_counter() - began, result

    @contextlib.contextmanager
    def peak(self) -> Iterator[dict[str, float]]:
        """Fills in ``peak_gb`` at its end; nothing on a CPU."""
        found: dict[str, float] = {}
        if self.is_cuda:
            self.free()
            torch.cuda.reset_peak_memory_stats(self.device)
        yield found
        if self.is_cuda:
            found["peak_gb"] = torch.cuda.max_memory_allocated(self.device) / 1e9
            found["reserved_gb"] = torch.cuda.max_memory_reserved(self.device) / 1e9

    def free(self) -> None:
        """Give back what is not needed any more."""
        gc.collect()
        if self.is_cuda:
            torch.cuda.empty_cache()

    def row(self, part: str, name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Add the row that some work gives; a failure is a row as well, and so is a lack of time."""
        if time.monotonic() > self.deadline:
            self.report.add(part, what=name, note="no time left")
            return None
        try:
            with self.peak() as memory:
                found = work()
        except Exception as error:  # the other rows still tell
            reason = str(error).strip().partition("\n")[0][:200]
            self.report.add(part, what=name, note=f"failed: {type(error).__name__}: {reason}")
            return None
        self.report.add(part, what=name, **found, **memory)
        return found

    # Parts

    def numbers(self) -> None:
        """Part a."""
        from tests.golden_cases import compare, load_cases, tiny_pipeline

        folder = ROOT / "tests" / "golden"
        pipe = tiny_pipeline().to(self.device)
        for name, case in load_cases(folder).items():

            def work(case=case) -> dict[str, Any]:
                worst = max(compare(case, folder, pipe), key=lambda row: row.difference / row.tolerance)
                return {
                    "worst output": worst.output,
                    "difference": worst.difference,
                    "tolerance": worst.tolerance,
                    "within": worst.difference <= worst.tolerance,
                }

            self.row("a. reference numbers, float32", name, work)
        exact = self._mini_frames(torch.float32, self.device)
        for dtype in (torch.float16, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            self.row(
                "a. the mini's frames beside float32",
                name,
                lambda dtype=dtype: _compared(self._mini_frames(dtype, self.device), exact),
            )

    def speed(self) -> None:
        """Part b."""
        part = "b. networks of full size, a step"
        self._resident(part, self.row(part, "a large product", self._product))
        for profile in profiles_for(self.device):
            if profile.offload or profile.eight_bit:
                self.free()
                self.row(part, profile.name, lambda profile=profile: self._fresh(profile))

    def _resident(self, part: str, rate: dict[str, Any] | None) -> None:
        """The rows of networks that stay on the device."""
        with self.built():
            pipe = build_pipeline(**self.scale.networks)
        roomy, *_ = [profile for profile in profiles_for(self.device) if not profile.offload]
        standard = profile_named("standard", self.device)
        place(pipe, standard, device=self.device)
        self._step(pipe, standard)  # loads kernels
        base = self.row(part, "standard", lambda: self._step(pipe, standard))
        if base and rate:
            self.row(part, "standard, achieved", lambda: self._achieved(base, rate))
        for profile in profiles_for(self.device):
            if profile is not standard and not profile.offload and not profile.eight_bit:
                place(pipe, profile, device=self.device)
                self.row(part, profile.name, lambda profile=profile: self._step(pipe, profile))
        place(pipe, standard, device=self.device)
        self.row(part, "published order", lambda: self._published(pipe, base))
        for count in (1, 2, 4, 8):
            several = replace(standard, name=f"{count} at once", window_batch=count)
            self.row(
                part,
                f"{self.scale.many_frames} frames, {count} windows at once",
                lambda several=several: self._step(pipe, several, frames=self.scale.many_frames),
            )
        for name, optimization in {
            "guidance branches together": OptimizationConfig(sequential_guidance=False),
            "nothing shared (plain)": OptimizationConfig.plain(),
        }.items():
            self.row(
                part,
                name,
                lambda optimization=optimization: self._step(pipe, standard, optimization=optimization),
            )
        self._layouts(part, pipe, standard)
        for name in ("exact", "balanced", "fast", "draft"):
            self.row("b. presets, a whole animation", name, lambda name=name: self._preset(pipe, name))
        self.row("b. out of memory", roomy.name, lambda: self._out_of_memory(pipe, roomy))
        if self.scale.compile:
            self._compiled(part, pipe, standard)

    def _layouts(self, part: str, pipe, profile: MemoryProfile) -> None:
        """The order of feature maps in memory."""
        for name, layout in (
            ("channels last", torch.channels_last),
            ("channels first", torch.contiguous_format),
        ):
            for network in (pipe.unet, pipe.appearance_encoder, pipe.controlnet, pipe.vae):
                network.to(memory_format=layout)
            self.row(part, name, lambda: self._step(pipe, profile))

    def _compiled(self, part: str, pipe, profile: MemoryProfile) -> None:
        """``--compile`` on; its first step apart."""
        compile_denoisers(pipe)
        try:
            self.row(part, "--compile, the first step", lambda: self._step(pipe, profile, steps=1))
            self.row(part, "--compile", lambda: self._step(pipe, profile))
        finally:
            for network in (pipe.unet, pipe.appearance_encoder, pipe.controlnet):
                undo_compilation(network)

    @contextlib.contextmanager
    def built(self) -> Iterator[None]:
        """Where networks are made: on the device, in 16 bits."""
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(self.device):
                yield
        finally:
            torch.set_default_dtype(torch.float32)

    def _photo_and_clip(self, frames: int) -> tuple[np.ndarray, np.ndarray]:
        rng, side = np.random.default_rng(0), self.scale.side
        photo = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        return photo, rng.integers(0, 256, (frames, side, side, 3), dtype=np.uint8)

    def _step(
        self,
        pipe,
        profile: MemoryProfile,
        *,
        frames: int | None = None,
        steps: int | None = None,
        optimization: OptimizationConfig | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Seconds of a guided step: those between the ends of the first and of the last one."""
        frames, steps = frames or self.scale.frames, steps or self.scale.steps
        fallback = OutOfMemoryFallback(
            pipe, profile, device=self.device, steps=[profile]
        )  # no memory is a failure
        photo, clip = self._photo_and_clip(frames)
        marks: list[float] = []

        def mark(*_: Any) -> None:
            self.synchronize()
            marks.append(time.perf_counter())

        def animate():
            given = {
                "guidance_scale": 7.5,
                "output_type": "latent",
                "fallback": fallback,
                "optimization": optimization,
            }
            return pipe(photo, clip, num_inference_steps=1 + steps, on_step=mark, **given, **settings)

        seconds, output = self.timed(animate)
        if not torch.isfinite(output.latents).all():
            raise ValueError("the latents are not finite")
        each = (marks[-1] - marks[0]) / steps
        return {"frames": frames, "seconds a step": each, "seconds of the first": seconds - steps * each}

    def _product(self) -> dict[str, Any]:
        side = self.scale.product
        a, b = (torch.randn(side, side, device=self.device, dtype=self.dtype) for _ in range(2))
        for _ in range(2):
            a @ b
        seconds, _ = self.timed(lambda: [a @ b for _ in range(5)])
        return {"TFLOP/s": 5 * 2 * side**3 / seconds / 1e12}

    def _achieved(self, base: dict[str, Any], rate: dict[str, Any]) -> dict[str, Any]:
        networks = {key: value for key, value in self.scale.networks.items() if key != "vae_channels"}
        with torch.device("meta"):
            counted = build_networks(**networks)
        found = count_step(counted, frames=self.scale.frames, size=self.scale.side, published=False)
        work = sum(found.values())
        achieved = work / base["seconds a step"]
        return {"TFLOP": work, "TFLOP/s": achieved, "of the product's": achieved / rate["TFLOP/s"]}

    def _published(self, pipe, base: dict[str, Any] | None) -> dict[str, Any]:
        from benchmarks.published import PLAN, SPEED, published_order

        with published_order():
            found = self._step(pipe, profile_named("standard", self.device), optimization=SPEED, windows=PLAN)
        return found | ({"of ours": found["seconds a step"] / base["seconds a step"]} if base else {})

    def _preset(self, pipe, name: str) -> dict[str, Any]:
        import diffusers

        preset, own = speed_preset(name), pipe.scheduler
        steps = preset.steps(FULL_STEPS if self.is_cuda else 4)
        if preset.scheduler:
            pipe.scheduler = getattr(diffusers, preset.scheduler).from_config(own.config)
        try:
            seconds, _ = self.timed(
                lambda: pipe(
                    *self._photo_and_clip(self.scale.frames),
                    num_inference_steps=steps,
                    guidance_scale=7.5,
                    approximations=preset.approximations,
                )
            )
        finally:
            pipe.scheduler = own
        return {"steps": steps, "seconds": seconds, "seconds a frame": seconds / self.scale.frames}

    def _out_of_memory(self, pipe, profile: MemoryProfile) -> dict[str, Any]:
        """Less memory than the roomiest profile wants: the animation goes on with another one."""
        if not self.is_cuda:
            return {"note": "a CPU's memory is not bounded here"}
        self.free()
        used = torch.cuda.memory_allocated(self.device)
        total = torch.cuda.get_device_properties(self.device).total_memory
        said: list[str] = []
        torch.cuda.set_per_process_memory_fraction(min(1.0, (used + 3.5e9) / total), self.device)
        try:
            fallback = OutOfMemoryFallback(
                pipe, profile, device=self.device, on_fallback=said.append, placed=profile
            )
            output = pipe(
                *self._photo_and_clip(self.scale.many_frames),
                num_inference_steps=1,
                guidance_scale=7.5,
                fallback=fallback,
            )
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, self.device)
        return {"ended with": fallback.profile.name, "frames": len(output.frames), "said": " ".join(said)}

    def _fresh(self, profile: MemoryProfile) -> dict[str, Any]:
        """A step with networks in the computer's memory, or in 8 bits."""
        with self.built():  # where random numbers are drawn quickly
            pipe = build_pipeline(**self.scale.networks)
        pipe.to("cpu")
        place(pipe, profile, device=self.device)
        return self._step(pipe, profile, steps=1)

    def training(self) -> None:
        """Part c."""
        for stage in ("stage1", "stage2"):
            self.row("c. a training step", stage, lambda stage=stage: self._train(stage))
            self.free()

    def _train(self, stage: str) -> dict[str, Any]:
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

        from magicanimate.checkpoints.layout import SCHEDULER
        from training.latents import Latents
        from training.loop import make_optimizer
        from training.presets import preset
        from training.stages.denoiser import Denoiser

        frames, side = (self.scale.clip if stage == "stage2" else 1), self.scale.side
        config = replace(preset("paper_tiktok", stage)[0], batch_size=1, size=side)
        sizes = {key: value for key, value in self.scale.networks.items() if key != "vae_channels"}
        widths = self.scale.networks.get("vae_channels", (128, 256, 512, 512))
        with torch.device(self.device):
            built = build_networks(**sizes)
            networks = {
                "unet": built.unet
                if stage == "stage2"
                else UNet2DConditionModel.from_config(built.encoder.config),
                "appearance_encoder": built.encoder,
                "controlnet": built.controlnet,
            }
            vae = AutoencoderKL(
                block_out_channels=tuple(widths),
                down_block_types=("DownEncoderBlock2D",) * len(widths),
                up_block_types=("UpDecoderBlock2D",) * len(widths),
                layers_per_block=2,
            ).eval()
            text = torch.zeros(1, 77, built.unet.config.cross_attention_dim)
            pixels = torch.rand(1, frames, 3, side, side) * 2 - 1
        model = Denoiser(
            config,
            networks,
            text=text,
            scheduler=DDIMScheduler(**SCHEDULER),
            latents=Latents(vae, precision="bf16"),
            samples=[],
            held_out=[],
        )
        learning = [p for p in model.parameters() if p.requires_grad]
        optimizer = make_optimizer(config.optimizer, learning)
        drawn = {"densepose": pixels / 2 + 0.5}
        batch = {
            "reference": pixels[:, 0],
            "target": pixels,
            "control": drawn,
            "reference_control": {"densepose": drawn["densepose"][:, 0]},
        }

        def step(index: int) -> float:
            with torch.autocast(torch.device(self.device).type, torch.bfloat16):
                loss = model(batch | {"index": torch.tensor([index])}).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, config.optimizer.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            return loss.item()

        losses = [step(0)]
        seconds, more = self.timed(lambda: [step(1 + i) for i in range(self.scale.steps)])
        losses += more
        if not all(map(math.isfinite, losses)):
            raise ValueError(f"the losses are not finite: {losses}")
        return {
            "frames": frames,
            "trained, million": sum(p.numel() for p in learning) / 1e6,
            "seconds a step": seconds / self.scale.steps,
            "loss": losses[-1],
        }

    def mini(self) -> None:
        """Part d."""

        def work() -> dict[str, Any]:
            here = self._mini_frames(torch.float32, "cpu")
            seconds, frames = self.timed(lambda: self._mini_frames(torch.float32, self.device))
            return _compared(frames, here) | {"seconds, with loading": seconds}

        self.row("d. the mini's frames beside the CPU's", "float32", work)

    def _mini_frames(self, dtype: torch.dtype, device: str) -> np.ndarray:
        """Frames of the shipped checkpoint, uint8 ``F H W 3``."""
        from magicanimate.media.photo import open_picture
        from magicanimate.pipeline import MagicAnimatePipeline
        from tests.dancer_files import control_frames

        pipe = MagicAnimatePipeline.from_pretrained(ROOT / "assets" / "mini", **{dtype_argument(): dtype}).to(
            device
        )
        side = pipe.config.default_width
        with open_picture(ROOT / "assets" / "examples" / "sway_photo.jpg") as photo:
            photo = np.asarray(photo.convert("RGB").resize((side, side)))
        return pipe(photo, control_frames(4, side)).frames


def _compared(frames: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    difference = frames.astype(float) - others
    error = np.square(difference).mean()
    return {
        "largest difference, levels": float(np.abs(difference).max()),
        "PSNR, dB": float(10 * np.log10(255**2 / error)) if error else math.inf,
    }


BY = {"a": 0.15, "b": 0.7, "c": 0.9, "d": 1.0}  # share of the time by which a part begins no more work
PARTS = {"a": Bench.numbers, "b": Bench.speed, "c": Bench.training, "d": Bench.mini}
