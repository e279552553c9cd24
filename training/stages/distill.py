"""Stage "distill": a student that samples in one, two or four steps, without guidance, what its teacher
samples in many.

The student begins as a copy of the teacher, which is any pipeline of this project and stays as it is. A step
of the training takes one of the student's sampling steps: the student comes to its beginning by itself,
without gradients; from there the teacher goes on in many short steps, guided, as far as the student's one
step reaches; and the student learns to predict what takes it to the same place. In its last step it learns
from the true pictures besides, as in `training.stages.sharpen`: pixels, features and a discriminator, whose
gradient passes through that step only.

Source: Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models" (ICLR 2022), for the
target and its weight. That the student begins where its own steps lead, and the pictures in the last step
only, is ours to combine.

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
from training.diffusion import draw_noise, snr
from training.stages.denoiser import Denoiser, choose_trained, softened
from training.stages.sharpen import Sharpener

LARGEST_WEIGHT = 5.0  # of a step's squared error; the signal-to-noise ratio of a last step is in the hundreds


class Distiller(Sharpener):
    """Losses of the student and of the discriminator.

    Args:
        config: of the stage.
        networks: the teacher's, as `Sharpener` takes them; the student begins with their weights.
        guidance_scale: of the teacher.
        others: the other arguments of `Sharpener`; ``sampling_steps`` are the student's.

    Raises:
        InputError: the teacher has no short steps within the student's.
    """

    def __init__(
        self,
        config: StageConfig,
        networks: Mapping[str, nn.Module],
        *,
        guidance_scale: float,
        **others: Any,
    ):
        teacher = copy.deepcopy(dict(networks))
        super().__init__(config, networks, **others)
        self.guidance_scale = guidance_scale
        shared = ("text", "scheduler", "latents", "samples", "held_out")
        self.teacher = Denoiser(
            replace(config, gradient_checkpointing=False), teacher, **{name: others[name] for name in shared}
        ).requires_grad_(False)
        self.steps = DDIMScheduler.from_config(self.scheduler.config)
        self.steps.set_timesteps(self.sampling_steps)
        count = self.scheduler.config.num_train_timesteps
        self.substeps = config.teacher_steps // self.sampling_steps
        if not 1 <= self.substeps <= count // self.sampling_steps:
            raise InputError(
                f"A teacher of {config.teacher_steps} steps cannot teach a student of {self.sampling_steps}; "
                f"choose --teacher-steps {self.sampling_steps} to {count}."
            )
        choose_trained(self, "distill", everything=config.distill_all)

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses ``B`` of a batch of clips, see `training.data.samples`, that know their ``index``."""
        config, control = self.config, self._control(batch)
        places = [self._place(index) for index in batch["index"].tolist()]
        rngs = [generator(Stream.NOISE, config.seed, *place) for place in places]
        shape = self._latents_shape(batch)
        noise = [draw_noise(rng, shape, share=rng.random() < config.share_noise) for rng in rngs]
        if config.soften_control:
            control = {name: softened(maps, rngs) for name, maps in control.items()}
        steps = self.steps
        # All clips of a step of the optimizer are at the same step of the sampling.
        chosen = generator(Stream.SAMPLING_STEP, config.seed, places[0][0]).integers(self.sampling_steps)
        with torch.no_grad():
            shown, noisy = self._shown(batch), torch.stack(noise).to(self.text.device)
            for timestep in steps.timesteps[:chosen]:
                predicted = self._predict(self, noisy, timestep, shown, control)
                noisy = steps.step(predicted, timestep, noisy).prev_sample
            timestep = steps.timesteps[chosen]
            wanted = self._where_the_teacher_goes(noisy, timestep, shown, control)
        predicted = self._predict(self, noisy, timestep, shown, control)
        clean = steps.step(predicted, timestep, noisy).pred_original_sample
        losses = self._weight(timestep) * (clean - wanted).square().flatten(1).mean(1)
        if chosen == self.sampling_steps - 1:
            losses = losses + self._judged(batch, clean, control)
        return losses

    def _predict(
        self,
        denoiser: Denoiser,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        shown: torch.Tensor,
        control: Mapping[str, torch.Tensor],
        *,
        sees: bool = True,
    ) -> torch.Tensor:
        count = len(noisy)
        each = timestep.to(noisy.device).expand(count)
        return denoiser.predict(noisy, each, shown, control, visible=[sees] * count).float()

    def _where_the_teacher_goes(
        self,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
        shown: torch.Tensor,
        control: Mapping[str, torch.Tensor],
    ) -> torch.Tensor:
        """The clean latents ``B C F h w`` that a student must predict at ``timestep`` to come in one step to
        where the teacher comes in ``substeps`` of them.
        """
        reach = self.scheduler.config.num_train_timesteps // self.sampling_steps
        times = torch.linspace(int(timestep), int(timestep) - reach, self.substeps + 1).round().long()
        there = noisy
        for now, following in pairwise(times):
            predicted = self._predict(self.teacher, there, now, shown, control)
            if self.guidance_scale > 1:
                without = self._predict(self.teacher, there, now, shown, control, sees=False)
                predicted = without + self.guidance_scale * (predicted - without)
            clean = self.steps.step(predicted, now, there).pred_original_sample
            ratio = self._noise_ratio(now, following)
            there = self._kept(following).sqrt() * clean + ratio * (there - self._kept(now).sqrt() * clean)
        ratio = self._noise_ratio(times[0], times[-1])
        kept, kept_there = self._kept(times[0]).sqrt(), self._kept(times[-1]).sqrt()
        return (there - ratio * noisy) / (kept_there - ratio * kept)

    def _kept(self, timestep: torch.Tensor) -> torch.Tensor:
        """``alpha_bar`` of a timestep, where those below 0 have no noise left."""
        ends = self.scheduler.final_alpha_cumprod
        return self.scheduler.alphas_cumprod[timestep] if timestep >= 0 else ends

    def _noise_ratio(self, now: torch.Tensor, following: torch.Tensor) -> torch.Tensor:
        """What a step of DDIM leaves of the noise, as a factor."""
        return ((1 - self._kept(following)) / (1 - self._kept(now))).sqrt()

    def _weight(self, timestep: torch.Tensor) -> torch.Tensor:
        """Of the squared error of the clean latents: the signal-to-noise ratio, 1 at least."""
        return snr(self.scheduler, timestep[None]).clamp(1, LARGEST_WEIGHT).to(self.text.device)
