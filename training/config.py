"""Settings of the training stages, as frozen dataclasses whose fields carry their help text.

`training.presets` fills them in, `training.options` turns every field into a command-line option, and a run
keeps them in its ``config.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from magicanimate.config import Driving, FirstLatents, Fusion
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
"""Stages of the animation model in their order; for the part segmenter see `training.segmenter`."""

CLIP_STAGES: tuple[Stage, ...] = ("stage2", "distill", "sharpen")
"""Stages whose UNet has temporal layers, so that their samples are clips."""


def setting(default: Any, help: str, *, may_change: bool = False) -> Any:
    """A dataclass field with a default and a help text.

    Args:
        default: its value.
        help: one phrase for ``--help``, with the unit.
        may_change: whether a run may be resumed with another value: the length of the run, and what only
            decides how fast and in how much memory it computes, or what it writes.
    """
    return field(default=default, metadata={"help": help, "may_change": may_change})


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, a constant rate and a linear decay, see `training.loop.learning_rate`."""

    learning_rate: float = setting(1e-3, "learning rate after the warm-up")
    warmup_steps: int = setting(200, "steps of linear warm-up")
    decay_steps: int = setting(0, "steps of linear decay at the end of the run", may_change=True)
    final_ratio: float = setting(0.05, "learning rate at the end of the decay, as a share of the peak")
    weight_decay: float = setting(0.01, "weight decay of AdamW")
    max_grad_norm: float = setting(1.0, "gradients are clipped to this L2 norm")
    ema_decay: float = setting(
        0.999, "decay of the weights' exponential moving average, reached gradually; 0: none"
    )
    eight_bit: bool = setting(False, "AdamW with 8-bit states (needs the package bitsandbytes and a GPU)")


@dataclass(frozen=True)
class LossConfig:
    """What the denoiser predicts and how its errors are weighted, see `training.diffusion`."""

    prediction: Prediction = setting("epsilon", "what the denoiser predicts")
    zero_terminal_snr: bool = setting(
        False, "rescale the noise schedule so that the last timestep is pure noise (v_prediction only)"
    )
    min_snr_gamma: float = setting(0.0, "gamma of min-SNR loss weighting, 5 in its paper; 0: no weighting")
    timestep_bias: float = setting(0.0, "share of samples whose timestep is drawn from the noisiest only")
    noisy_from: int = setting(600, "first timestep that counts as one of the noisiest")
    weigh_channels: bool = setting(False, "weight latent channels by how much they change the decoded image")
    attention_weight: float = setting(
        0.0, "weight of the loss on attention to the reference; needs part maps and a still background"
    )
    attention_by: Literal["parts", "points"] = setting(
        "parts",
        "target of that attention: the same body part, or the same body point (exact, rendered dancers only)",
    )


@dataclass(frozen=True)
class StageConfig:
    """Settings of one stage's run.

    Every random number depends on ``seed``, the step and the sample's position in the batch only, so that
    results depend neither on interruptions nor on the number of processes.
    """

    stage: Stage
    steps: int = setting(1000, "optimizer steps in total", may_change=True)
    batch_size: int = setting(
        16, "target images or clips per optimizer step, over all processes and accumulation steps"
    )
    targets: int = setting(
        1, "base, stage1: target frames per reference, which is encoded only once for them"
    )
    size: int = setting(128, "side of the square training images, pixels")
    crop: int = setting(
        0, "vae, distill, sharpen: side of the random crop on which the loss is computed, pixels; 0: all"
    )
    framing: Framing = setting(
        "person",
        "which square is cut out of wide or tall images: around the person, or the centre (as the paper)",
    )
    num_frames: int = setting(16, "frames of a training clip (K in the paper)")
    interval: int = setting(1, "a clip takes every n-th frame of its video (s in the paper)")
    tau_0: float = setting(
        0.2, "base, stage1: probability that a sample is a single image, which is its own reference"
    )
    tau_1: float = setting(0.0, "stage2: a step whose draw from U(0, 1) is below this trains on images")
    tau_2: float = setting(
        0.0, "stage2: a draw from tau_1 to this trains on single frames, a higher one on clips"
    )
    still_share: float = setting(0.0, "rendered dancers: probability that the reference is a still image")
    target_still_share: float = setting(
        0.0, "rendered dancers: probability that a target of such a reference is a still, too"
    )
    fusion: Fusion = setting("midup", "UNet blocks with hybrid attention, which attend to the reference")
    reference: bool = setting(True, "use the appearance encoder (off: ablation)")
    driving: Driving = setting("densepose", "control signal; both: two ControlNets whose residuals are added")
    share_noise: float = setting(
        0.0, "stage2, distill: probability that all frames of a clip get the same noise"
    )
    drop_reference: float = setting(
        0.1, "probability that a sample does not see its reference, for classifier-free guidance"
    )
    soften_control: bool = setting(
        False, "augment the control images: slight blur and colour shift, as in resized video"
    )
    latent_noise: float = setting(0.02, "vae: noise added to the latents, in their standard deviations")
    halved_share: float = setting(
        0.0, "vae: share of crops that are taken twice as large and then halved in size"
    )
    gradient_weight: float = setting(0.1, "vae: weight of the L1 loss on image gradients, for sharp edges")
    reuse: int = setting(1, "sharpen: steps for which sampled latents are reused, each with other crops")
    feature_weight: float = setting(
        0.05, "distill, sharpen: weight of the perceptual loss on the part segmenter's features"
    )
    adversarial_weight: float = setting(0.03, "distill, sharpen: weight of the adversarial loss")
    own_steps: int = setting(
        0, "base to stage2: train at the timesteps of so many sampling steps, on own latents; 0: at all"
    )
    first_latents: FirstLatents = setting(
        "noise", "what sampling begins with: noise, or the photo's body segments moved into the pose"
    )
    student_steps: int = setting(2, "distill: sampling steps of the student")
    teacher_steps: int = setting(24, "distill: sampling steps of the teacher")
    teacher_guidance: float = setting(
        0.0, "distill: guidance scale of the teacher; 0: the default of its pipeline"
    )
    distill_all: bool = setting(
        False, "distill: train the whole student, not only its appearance encoder and temporal layers"
    )
    holdout: int = setting(
        16, "videos at the end of the data set that are kept for validation and never trained on"
    )
    seed: int = setting(0, "seed of all random numbers")
    # Part of what must not change: a resumed run would round differently from there on.
    mixed_precision: Precision = setting(
        "no",
        "precision of the arithmetic; auto: bf16 where the hardware has it, else fp16 (GPU) or no (CPU)",
    )
    accumulation: int = setting(
        1, "gradient accumulation steps per optimizer step and process", may_change=True
    )
    gradient_checkpointing: bool = setting(
        False, "recompute activations in the backward pass, to save memory", may_change=True
    )
    channels_last: bool = setting(
        False, "channels-last memory layout, often faster for convolutions", may_change=True
    )
    compile: bool = setting(False, "compile the networks with torch.compile", may_change=True)
    cache_latents: bool = setting(
        False,
        "encode real videos once and keep their latents in the folder of the runs (33 kB a frame at 512)",
    )
    workers: int = setting(0, "data loader processes", may_change=True)
    checkpoint_every: int = setting(200, "steps between checkpoints", may_change=True)
    keep_checkpoints: int = setting(2, "how many of the newest checkpoints are kept", may_change=True)
    sample_every: int = setting(500, "steps between samples from the held-out videos", may_change=True)
    log_every: int = setting(20, "steps between lines of metrics.jsonl", may_change=True)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loss: LossConfig = field(default_factory=LossConfig)

    @property
    def samples_a_step(self) -> int:
        """Samples of a global batch: references (each with its targets), or clips."""
        return self.batch_size // self.targets


# Ranges are written by group: most settings are counts, shares or plain non-negative numbers.
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
    "own_steps": (0, 100),
    **dict.fromkeys(("feature_weight", "adversarial_weight"), (0, _MANY)),
    **dict.fromkeys(
        ("optimizer.warmup_steps", "optimizer.decay_steps", "optimizer.weight_decay"), (0, _MANY)
    ),
    **dict.fromkeys(("loss.min_snr_gamma", "loss.attention_weight"), (0, _MANY)),
    "teacher_guidance": (0, 100),
    "loss.noisy_from": (0, 999),
    "optimizer.learning_rate": (1e-12, 10),
    "optimizer.max_grad_norm": (1e-12, _MANY),
    # What torch.manual_seed takes.
    "seed": (-(2**63), 2**63 - 1),
    "workers": (0, 1024),
}
"""Smallest and largest allowed value of every numeric setting, by dotted name."""


def check_config(config: StageConfig) -> None:
    """Check that all settings are in range and fit together.

    Raises:
        InputError: naming the option, its value and what is allowed.
    """
    for name, value in flat(config).items():
        if name in _RANGES:
            low, high = _RANGES[name]
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            # `not low <= value <= high` instead of its negation: NaN compares false with everything.
            if not is_number or not low <= value <= high:
                option = "--" + name.rpartition(".")[2].replace("_", "-")
                raise InputError(f"{option} is {shortened(value)}; choose {low:g} to {high:g}.")
    if config.batch_size % config.targets:
        raise InputError(
            f"--batch-size {config.batch_size} is no multiple of --targets {config.targets}; change one."
        )
    # The thresholds are cumulative, see training.data.draws.joint_kind.
    if config.tau_2 < config.tau_1:
        raise InputError(f"--tau-2 is {config.tau_2}, less than --tau-1, {config.tau_1}; change one of them.")
    if config.first_latents == "warped_photo":
        if "densepose" not in SIGNALS[config.driving]:
            raise InputError(
                "--first-latents warped_photo needs part maps; choose --driving densepose or both, or "
                "--first-latents noise."
            )
        if config.cache_latents:
            raise InputError(
                "--cache-latents keeps no pictures, and --first-latents warped_photo needs them; choose "
                "--first-latents noise or --no-cache-latents."
            )


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of networks that are trained from random weights: Stable Diffusion's topology, smaller.

    Attributes:
        size: side of the square images the networks are trained at, pixels.
        vae_channels: channels of the autoencoder's four levels.
        latent_channels: channels of its latents, whose sides are an eighth of the image's.
        unet_channels: channels of the levels of UNet, appearance encoder and ControlNet.
        heads: attention heads at every level.
        norm_groups: groups of the UNets' group normalization.
        text_tokens, text_width: shape of the empty prompt's embedding, which is all zeros (there is no text).
        control_channels: channels of the ControlNet's conditioning embedding.
        motion_heads: heads of the temporal attention.
        photo_map: whether the appearance encoder takes the photo's part map beside its latents.
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
    """All fields by dotted name, nested ones too: ``{"steps": 5, "optimizer.learning_rate": ...}``."""
    values = {}
    for f in fields(config):
        value = getattr(config, f.name)
        # Nested settings keep their group as a prefix, which options leave out.
        values |= flat(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return values


def fixed_settings(config: StageConfig) -> dict[str, Any]:
    """The settings, by dotted name, with which a run must be resumed: all but the ``may_change`` ones."""
    # By dotted name, since nested settings may have the name of an outer one.
    changeable = {
        name
        for prefix, cls in (("", StageConfig), ("optimizer.", OptimizerConfig), ("loss.", LossConfig))
        for name in (prefix + f.name for f in fields(cls) if f.metadata.get("may_change"))
    }
    return {name: value for name, value in flat(config).items() if name not in changeable}


def updated(config: Any, saved: Mapping[str, Any]) -> Any:
    """``config`` with the values of a saved ``config.json``, except those of another type."""
    changes = {}
    for f in fields(config):
        if f.name in saved:
            value, there = getattr(config, f.name), saved[f.name]
            if is_dataclass(value):
                changes[f.name] = updated(value, there) if isinstance(there, Mapping) else value
            elif type(there) is type(value) or {type(there), type(value)} == {int, float}:
                # JSON does not tell 1 from 1.0. Other types come from an
                # older or damaged file; the preset's value is kept.
                changes[f.name] = there
    return replace(config, **changes)


def as_json(config: StageConfig, network: NetworkConfig | None) -> dict[str, Any]:
    """The settings as a run's ``config.json`` stores them."""
    return asdict(config) | {"network": asdict(network) if network else None}
