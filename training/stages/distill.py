"""Stage "distill": a student that samples in one, two or four steps without guidance.

The student starts as a copy of the teacher, which is any pipeline of this project and stays frozen. A
training step covers one of the student's sampling steps: the student samples, without gradients, up to that
step; from there the teacher goes on in many short, guided steps, as far as the student's one step reaches;
and the student learns the prediction that takes it to the same latents. In its last step it also learns from
the true images, by the losses of `training.stages.sharpen`, whose gradient passes through that step only.

Source: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models" (ICLR 2022), for the
target and its weight. That the student starts from its own latents, and learns from images in the last step,
is ours.

Letters in shape comments: ``B`` clips, ``C F h w`` channels, frames, height, width of latents.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import nn

from magicanimate.errors import InputError
from training.config import StageConfig
from training.data.draws import Stream, generator
from training.diffusion import sample_latents, snr
from training.stages.denoiser import Denoiser, choose_trained, softened
from training.stages.sharpen import Sharpener

LARGEST_WEIGHT = 5.0
"""Largest weight of a squared error; the signal-to-noise ratio at a last step is in the hundreds."""


class Distiller(Sharpener):
    """Trains the student, and the discriminator that judges its images.

    Args:
        config: settings of the stage.
        networks: the teacher's networks, as in `Sharpener`; the student starts with copies of their weights.
        guidance_scale: the teacher's.
        others: the other arguments of `Sharpener`; ``sampling_steps`` are the student's.

    Attributes:
        student_schedule: DDIM with the student's timesteps.
        substeps: the teacher's steps within one step of the student.

    Raises:
        InputError: the teacher has fewer steps than the student, or more than there are timesteps.
    """

    def __init__(
        self,
        config: StageConfig,
        networks: Mapping[str, nn.Module],
        *,
        guidance_scale: float,
        **others: Any,
    ):
        # Copied before the student's networks get other attention processors.
        teacher = copy.deepcopy(dict(networks))
        super().__init__(config, networks, **others)
        self.guidance_scale = guidance_scale
        shared = ("text", "scheduler", "latents", "samples", "held_out")
        # The teacher is never differentiated, so recomputing its activations would only cost time.
        self.teacher = Denoiser(
            replace(config, gradient_checkpointing=False), teacher, **{name: others[name] for name in shared}
        ).requires_grad_(False)
        self.student_schedule = DDIMScheduler.from_config(self.scheduler.config)
        self.student_schedule.set_timesteps(self.sampling_steps)
        count = self.scheduler.config.num_train_timesteps
        self.substeps = config.teacher_steps // self.sampling_steps
        if not 1 <= self.substeps <= count // self.sampling_steps:
            raise InputError(
                f"A teacher of {config.teacher_steps} steps cannot teach a student of {self.sampling_steps}; "
                f"choose --teacher-steps {self.sampling_steps} to {count}."
            )
        # Again, after Sharpener has chosen the decoder; also
        # freezes the teacher, whose names begin otherwise.
        choose_trained(self, "distill", everything=config.distill_all)

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses ``B`` of a batch of `training.data.samples`, clips with their global ``index``."""
        config, batch = self.config, self._labelled(batch)
        control = self._control(batch)
        places = [self._place(index) for index in batch["index"].tolist()]
        rngs = [generator(Stream.NOISE, config.seed, *place) for place in places]
        shape = self._latents_shape(batch)
        share = [rng.random() < config.share_noise for rng in rngs]
        noise = self.first_latents(batch, rngs, shape, share=share)
        if config.soften_control:
            control = {name: softened(maps, rngs) for name, maps in control.items()}
        steps = self.student_schedule
        # All clips of a step of the optimizer are at the same step of the sampling.
        chosen = generator(Stream.SAMPLING_STEP, config.seed, places[0][0]).integers(self.sampling_steps)
        with torch.no_grad():
            encoder_input = self._encoder_input(batch)
            # From its own latents, not from noised images: those are what it will meet when it samples.
            noisy = sample_latents(
                self.scheduler,
                noise,
                lambda noisy, t: self.predict(noisy, t, encoder_input, control),
                steps=self.sampling_steps,
                taken=chosen,
            )
            timestep = steps.timesteps[chosen]
            wanted = self._teacher_target(noisy, timestep, encoder_input, control)
        predicted = self._predict(self, noisy, timestep, encoder_input, control)
        clean = steps.step(predicted, timestep, noisy).pred_original_sample
        losses = self._weight(timestep) * (clean - wanted).square().flatten(1).mean(1)
        if chosen == self.sampling_steps - 1:
            losses = losses + self._decoder_losses(batch, clean, control)
        return losses

    def _predict(
        self,
        denoiser: Denoiser,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        encoder_input: torch.Tensor,
        control: Mapping[str, torch.Tensor],
        *,
        sees: bool = True,
    ) -> torch.Tensor:
        count = len(noisy)
        each = timestep.to(noisy.device).expand(count)
        return denoiser.predict(noisy, each, encoder_input, control, visible=[sees] * count).float()

    def _teacher_target(
        self,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        encoder_input: torch.Tensor,
        control: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The student's target at ``timestep``, clean latents ``B C F h w``.

        A DDIM step with this prediction leads in one step to where the teacher gets in ``substeps`` (Salimans
        and Ho, algorithm 2).
        """
        reach = self.scheduler.config.num_train_timesteps // self.sampling_steps
        # The teacher's timesteps divide the student's step
        # evenly; they need not be timesteps of its own sampling.
        times = torch.linspace(int(timestep), int(timestep) - reach, self.substeps + 1).round().long()
        there = noisy
        for now, following in pairwise(times):
            predicted = self._predict(self.teacher, there, now, encoder_input, control)
            if self.guidance_scale > 1:
                # Without its reference: the photo is what guidance strengthens.
                without = self._predict(self.teacher, there, now, encoder_input, control, sees=False)
                predicted = without + self.guidance_scale * (predicted - without)
            clean = self.student_schedule.step(predicted, now, there).pred_original_sample
            ratio = self._noise_ratio(now, following)
            there = self._alpha_bar(following).sqrt() * clean + ratio * (
                there - self._alpha_bar(now).sqrt() * clean
            )
        ratio = self._noise_ratio(times[0], times[-1])
        kept, kept_there = self._alpha_bar(times[0]).sqrt(), self._alpha_bar(times[-1]).sqrt()
        # DDIM from here to there is there = kept_there * x + ratio * (noisy - kept * x); solved for x.
        return (there - ratio * noisy) / (kept_there - ratio * kept)

    def _alpha_bar(self, timestep: torch.Tensor) -> torch.Tensor:
        """``alpha_bar`` of a timestep; behind the last one (below 0), the schedule's final value."""
        ends = self.scheduler.final_alpha_cumprod
        return self.scheduler.alphas_cumprod[timestep] if timestep >= 0 else ends

    def _noise_ratio(self, now: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """The factor by which a DDIM step (eta 0) reduces the noise in the latents."""
        return ((1 - self._alpha_bar(following)) / (1 - self._alpha_bar(now))).sqrt()

    def _weight(self, timestep: torch.Tensor) -> torch.Tensor:
        """Weight of the squared error of the clean latents: the SNR, from 1 to `LARGEST_WEIGHT`."""
        return snr(self.scheduler, timestep[None]).clamp(1, LARGEST_WEIGHT).to(self.text.device)
