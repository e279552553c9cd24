"""Settings of the training stages: frozen dataclasses whose fields say what they are for.

The presets in `training.presets` return them, `training.options` makes command-line options of their fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from magicanimate.config import Driving, Fusion
from magicanimate.errors import InputError
from magicanimate.files import shortened

Stage = Literal["vae", "base", "controlnet", "stage1", "stage2", "distill", "sharpen", "segmenter"]
Prediction = Literal["epsilon", "v_prediction"]
Precision = Literal["auto", "no", "bf16", "fp16"]
Framing = Literal["person", "centre"]

SIGNALS: dict[Driving, tuple[str, ...]] = {
    "densepose": ("densepose",),
    "keypoints": ("keypoints",),
    "both": ("densepose", "keypoints"),
}
STAGES: tuple[Stage, ...] = ("vae", "base", "controlnet", "stage1", "stage2", "distill", "sharpen")
"""The stages of the animation, in their order; the part segmenter stands apart, see `training.segmenter`."""

CLIP_STAGES: tuple[Stage, ...] = ("stage2", "distill", "sharpen")
"""Those with temporal layers, whose samples are clips."""


def setting(default: Any, help: str, *, may_change: bool = False) -> Any:
    """A field with its help text.

    Args:
        default: value.
        help: what the field is for, with its unit.
        may_change: whether a run that was begun may go on with another value.
    """
    return field(default=default, metadata={"help": help, "may_change": may_change})


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up, a constant stretch and a linear decay; see `training.loop.learning_rate`."""

    learning_rate: float = setting(1e-3, "peak rate")
    warmup_steps: int = setting(200, "steps of linear warm-up")
    decay_steps: int = setting(0, "steps of linear decay at the end of the run", may_change=True)
    final_ratio: float = setting(0.05, "rate at the last step as a share of the peak, with decay")
    weight_decay: float = setting(0.01, "of AdamW")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm")
    ema_decay: float = setting(0.999, "of the averaged weights, reached gradually; 0 for no averaging")
    eight_bit: bool = setting(False, "AdamW with 8-bit states (needs the package bitsandbytes and a GPU)")


@dataclass(frozen=True)
class LossConfig:
    """What the denoiser predicts and how timesteps count; see `training.diffusion`."""

    prediction: Prediction = setting("epsilon", "what the denoiser predicts")
    zero_terminal_snr: bool = setting(False, "the last timestep is pure noise (v_prediction only)")
    min_snr_gamma: float = setting(0.0, "clip of the min-SNR weighting, 5 in its paper; 0 for none")
    timestep_bias: float = setting(0.0, "share of the samples whose timestep is one of the noisiest")
    noisy_from: int = setting(600, "first of those noisiest timesteps")
    weigh_channels: bool = setting(False, "weigh latent channels by how much they show in the picture")
    attention_weight: float = setting(
        0.0, "weight of the loss on where the reference is looked at; needs part maps and a still background"
    )
    attention_by: Literal["parts", "points"] = setting(
        "parts",
        "what tells what to attend to: part maps, or the body points of rendered dancers, which are exact",
    )


@dataclass(frozen=True)
class StageConfig:
    """One run of one stage. Everything random depends on ``seed``, the step and the sample's place only."""

    stage: Stage
    steps: int = setting(1000, "optimizer steps in all", may_change=True)
    batch_size: int = setting(16, "targets or clips a step, over all processes and accumulated parts")
    targets: int = setting(1, "base, stage1: targets that share a reference, which is encoded once")
    size: int = setting(128, "side of the square training pictures, pixels")
    crop: int = setting(0, "vae, distill, sharpen: side of the random crop that is judged, pixels; 0: all")
    framing: Framing = setting(
        "person",
        "square that is cut out of wide or tall pictures: around the person, or the centre (the paper)",
    )
    num_frames: int = setting(16, "frames of a clip (K of the paper)")
    interval: int = setting(1, "the clip takes every n-th frame of the video (s of the paper)")
    tau_0: float = setting(0.2, "base, stage1: chance that a sample is an image, reference = target")
    tau_1: float = setting(0.0, "stage2: a step that draws less than this trains on images")
    tau_2: float = setting(0.0, "stage2: between tau_1 and this on single frames, above on clips")
    still_share: float = setting(0.0, "chance that a pair's reference is one of the dancers' stills")
    target_still_share: float = setting(0.0, "chance that a pair's target is one of the dancers' stills")
    fusion: Fusion = setting("midup", "UNet blocks that read the reference")
    reference: bool = setting(True, "use the appearance encoder; off only to see what it is good for")
    driving: Driving = setting("densepose", "motion signal; both: two ControlNets, residuals added")
    share_noise: float = setting(0.0, "stage2, distill: chance that the frames of a clip get the same noise")
    drop_reference: float = setting(0.1, "chance that a sample does not see its reference, for guidance")
    soften_control: bool = setting(False, "blur and disturb the maps a little, as resized video does")
    latent_noise: float = setting(0.02, "vae: noise on the latents, in their standard deviations")
    halved_share: float = setting(0.0, "vae: share of the crops that are taken twice as large and halved")
    gradient_weight: float = setting(0.1, "vae: weight of the loss on image gradients, for sharp edges")
    reuse: int = setting(1, "sharpen: steps that what is sampled once serves, with other crops")
    feature_weight: float = setting(0.05, "distill, sharpen: weight of the part segmenter's features")
    adversarial_weight: float = setting(0.03, "distill, sharpen: weight of the discriminator's judgement")
    student_steps: int = setting(2, "distill: sampling steps of the student")
    teacher_steps: int = setting(24, "distill: sampling steps of the teacher")
    teacher_guidance: float = setting(0.0, "distill: guidance scale of the teacher; 0: its pipeline's own")
    distill_all: bool = setting(
        False, "distill: the whole student learns, not the appearance encoder and temporal layers alone"
    )
    holdout: int = setting(16, "videos at the end of the data set that are never trained on")
    seed: int = setting(0, "of everything random")
    mixed_precision: Precision = setting(
        "no",
        "number format of the networks' arithmetic; auto: bf16 where the hardware multiplies it, else no",
    )
    accumulation: int = setting(1, "parts a process cuts its share of a batch into", may_change=True)
    gradient_checkpointing: bool = setting(
        False, "compute activations twice, to save memory", may_change=True
    )
    channels_last: bool = setting(False, "memory layout that convolutions often like", may_change=True)
    compile: bool = setting(False, "use torch.compile for the denoiser's networks", may_change=True)
    cache_latents: bool = setting(
        False, "compute the latents of real videos once, into the folder of the runs (33 kB a frame at 512)"
    )
    workers: int = setting(0, "processes that read data", may_change=True)
    checkpoint_every: int = setting(200, "steps between checkpoints", may_change=True)
    keep_checkpoints: int = setting(2, "newest checkpoints that are kept", may_change=True)
    sample_every: int = setting(500, "steps between samples of held-out data", may_change=True)
    log_every: int = setting(20, "steps between rows of metrics.jsonl", may_change=True)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    @property
    def samples_a_step(self) -> int:
        """References, each with its targets, or clips, of the global batch."""
        return self.batch_size // self.targets


_AT_LEAST_ONE = (
    *("steps", "batch_size", "targets", "size", "num_frames", "interval", "accumulation", "checkpoint_every"),
    *("keep_checkpoints", "sample_every", "log_every", "reuse"),
    *("student_steps", "teacher_steps"),
)
_SHARES = (
    *("tau_0", "tau_1", "tau_2", "still_share", "target_still_share", "share_noise", "drop_reference"),
    *("optimizer.final_ratio", "optimizer.ema_decay", "loss.timestep_bias"),
)
_MANY = 10**9
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(_AT_LEAST_ONE, (1, _MANY)),
    **dict.fromkeys(_SHARES, (0, 1)),
    **dict.fromkeys(("crop", "holdout", "latent_noise", "gradient_weight"), (0, _MANY)),
    **dict.fromkeys(("feature_weight", "adversarial_weight"), (0, _MANY)),
    **dict.fromkeys(
        ("optimizer.warmup_steps", "optimizer.decay_steps", "optimizer.weight_decay"), (0, _MANY)
    ),
    **dict.fromkeys(("loss.min_snr_gamma", "loss.attention_weight"), (0, _MANY)),
    "teacher_guidance": (0, 100),
    "loss.noisy_from": (0, 999),
    "optimizer.learning_rate": (1e-12, 10),
    "optimizer.max_grad_norm": (1e-12, _MANY),
    "seed": (-(2**63), 2**63 - 1),
    "workers": (0, 1024),
}
"""Least and largest value of every setting that is a number, by dotted name."""


def check_config(config: StageConfig) -> None:
    """Refuse settings that make no sense.

    Raises:
        InputError: with the option, its value and what is allowed.
    """
    for name, value in flat(config).items():
        if name in _RANGES:
            low, high = _RANGES[name]
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not low <= value <= high:  # also refuses "not a number"
                option = "--" + name.rpartition(".")[2].replace("_", "-")
                raise InputError(f"{option} is {shortened(value)}; choose {low:g} to {high:g}.")
    if config.batch_size % config.targets:
        raise InputError(
            f"--batch-size {config.batch_size} is no multiple of --targets {config.targets}; change one."
        )
    if config.tau_2 < config.tau_1:
        raise InputError(f"--tau-2 is {config.tau_2}, less than --tau-1, {config.tau_1}; change one of them.")


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of networks that learn from nothing; the topology is Stable Diffusion's, smaller.

    Attributes:
        size: side of the square images the networks are trained at, pixels.
        vae_channels: widths of the autoencoder's four levels.
        latent_channels: channels of its latents, which are 8 times smaller than the image.
        unet_channels: widths of the UNet, appearance encoder and ControlNet.
        heads: attention heads at every level.
        photo_map: whether the appearance encoder takes the photo's part map beside its latents.
        norm_groups: groups of the UNets' group norms.
        text_tokens, text_width: shape of the empty prompt's embedding (zeros: there is no text).
        control_channels: widths of the ControlNet's image embedding.
        motion_heads: heads of the temporal attention.
    """

    size: int = 128
    vae_channels: tuple[int, ...] = (24, 48, 96, 192)
    latent_channels: int = 16
    unet_channels: tuple[int, ...] = (64, 96, 128)
    heads: int = 4
    norm_groups: int = 16
    text_tokens: int = 1
    text_width: int = 32
    control_channels: tuple[int, ...] = (16, 32, 64, 64)
    motion_heads: int = 4
    photo_map: bool = False


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Fields by dotted name, nested dataclasses opened: ``{"steps": 5, "optimizer.learning_rate": ...}``."""
    values = {}
    for f in fields(config):
        value = getattr(config, f.name)
        values |= flat(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return values


def fixed_settings(config: StageConfig) -> dict[str, Any]:
    """The settings, by dotted name, that a run must keep from its first step to its last."""
    changeable = {
        name
        for prefix, cls in (("", StageConfig), ("optimizer.", OptimizerConfig), ("loss.", LossConfig))
        for name in (prefix + f.name for f in fields(cls) if f.metadata.get("may_change"))
    }
    return {name: value for name, value in flat(config).items() if name not in changeable}


def updated(config: Any, saved: Mapping[str, Any]) -> Any:
    """``config`` with the values of a ``config.json``, as far as that has them."""
    changes = {}
    for f in fields(config):
        if f.name in saved:
            value, there = getattr(config, f.name), saved[f.name]
            if is_dataclass(value):
                changes[f.name] = updated(value, there) if isinstance(there, Mapping) else value
            elif type(there) is type(value) or {type(there), type(value)} == {int, float}:
                changes[f.name] = there
    return replace(config, **changes)


def as_json(config: StageConfig, network: NetworkConfig | None) -> dict[str, Any]:
    """What ``config.json`` of a run folder says about the run's settings."""
    return asdict(config) | {"network": asdict(network) if network else None}
