"""The fields of the Train tab, named as those of `TrainingWish`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from magicanimate.animator import ModelDefaults
from magicanimate.webui.animate.form_values import form_settings
from magicanimate.webui.animate.sizes import size_choices
from magicanimate.webui.training.wish import PRESETS, STAGES, TrainingWish, stages_of

Controls = dict[str, gr.components.Component]

TEXTS = ("data", "runs", "images", "pipeline", "stable_diffusion", "vae", "motion")
CHECKPOINTS_OWN = ("num_inference_steps", "guidance_scale", "size", "width", "height")
"""Settings of the Animate tab that each checkpoint has values of its own for."""


def what(wish: TrainingWish) -> Controls:
    """What to train."""
    return {
        name: gr.Dropdown(
            list(names),
            value=getattr(wish, name),
            label=name.capitalize(),
            info=texts[getattr(wish, name)],
            filterable=False,
            elem_id=f"train-{name}",
        )
        for name, names, texts in (("preset", PRESETS, PRESETS), ("stage", stages_of(wish.preset), STAGES))
    }


def data(wish: TrainingWish) -> Controls:
    """What to train on."""
    return {
        "data": gr.Textbox(
            wish.data,
            label="Data folder",
            info="videos NAME.mp4 with their DensePose clips NAME.densepose.mp4, or rendered dancers",
            elem_id="data",
        )
    }


def runs(wish: TrainingWish) -> Controls:
    """Where it goes."""
    return {
        "runs": gr.Textbox(
            wish.runs,
            label="Folder of the runs",
            info="the same for all stages of one training: each finds those before it there",
            elem_id="runs",
        )
    }


def more() -> Controls:
    """Settings that are the preset's as long as they are empty."""
    gr.HTML('<p class="ma-caption">What is empty is as the preset has it.</p>', padding=False)
    with gr.Row():
        controls: Controls = {
            "steps": gr.Number(
                label="Steps in all", precision=0, minimum=1, min_width=120, elem_id="train-steps"
            ),
            "batch_size": gr.Number(
                label="Batch size", precision=0, minimum=1, min_width=120, elem_id="batch-size"
            ),
            "learning_rate": gr.Number(label="Peak learning rate", min_width=120, elem_id="learning-rate"),
        }
    controls["images"] = gr.Textbox(
        label="Folder of pictures", info="for training on pictures and videos together"
    )
    controls["pipeline"] = gr.Textbox(
        label="Go on from a checkpoint", info="pipeline folder, such as assets/mini"
    )
    return controls


def released_weights() -> Controls:
    """What the paper's presets begin with."""
    return {
        "stable_diffusion": gr.Textbox(
            label="Stable Diffusion 1.5", info="its folder; not needed if you go on from a checkpoint (More)"
        ),
        "vae": gr.Textbox(label="Autoencoder", info="folder of sd-vae-ft-mse"),
        "motion": gr.Textbox(
            label="Motion weights", info="stage2: AnimateDiff's mm_sd_v15.ckpt; may stay empty"
        ),
    }


def checkpoints_own(defaults: ModelDefaults) -> dict[str, Any]:
    """Updates of the Animate tab's settings to what a checkpoint has, see `CHECKPOINTS_OWN`."""
    settings = form_settings(defaults)
    updates = {name: gr.update(value=settings[name].default) for name in CHECKPOINTS_OWN}
    sizes = [(choice.label, choice.name) for choice in size_choices(defaults)]
    return updates | {"size": gr.update(choices=sizes, value=settings["size"].default)}
