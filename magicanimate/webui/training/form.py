"""The fields of the Train tab, named as those of `TrainingConfig`."""

from __future__ import annotations

import gradio as gr

from magicanimate.webui.training.config import PRESETS, STAGES, TrainingConfig, stages_of

Controls = dict[str, gr.components.Component]

TEXTS = ("data", "runs", "images", "pipeline", "stable_diffusion", "vae", "motion")


def what(config: TrainingConfig) -> Controls:
    """What to train."""
    return {
        name: gr.Dropdown(
            list(names),
            value=getattr(config, name),
            label=name.capitalize(),
            info=texts[getattr(config, name)],
            filterable=False,
            elem_id=f"train-{name}",
        )
        for name, names, texts in (("preset", PRESETS, PRESETS), ("stage", stages_of(config.preset), STAGES))
    }


def data(config: TrainingConfig) -> Controls:
    """What to train on."""
    return {
        "data": gr.Textbox(
            config.data,
            label="Data folder",
            info="Videos NAME.mp4 with their motion clips NAME.densepose.mp4, or rendered dancers",
            elem_id="data",
        )
    }


def runs(config: TrainingConfig) -> Controls:
    """Where it goes."""
    return {
        "runs": gr.Textbox(
            config.runs,
            label="Folder of the runs",
            info="The same for all stages of one training: each stage continues from the one before",
            elem_id="runs",
        )
    }


def more() -> Controls:
    """Settings that are the preset's as long as they are empty."""
    gr.HTML('<p class="ma-caption">Empty fields are as the preset has them.</p>', padding=False)
    with gr.Row():
        controls: Controls = {
            "steps": gr.Number(
                label="Steps in all", precision=0, minimum=1, min_width=120, elem_id="train-steps"
            ),
            "batch_size": gr.Number(
                label="Batch size", precision=0, minimum=1, min_width=120, elem_id="batch-size"
            ),
            "holdout": gr.Number(
                label="Videos kept for checking",
                info="never learned from; empty: up to 16, at most a quarter",
                precision=0,
                minimum=1,
                min_width=160,
                elem_id="holdout",
            ),
            "learning_rate": gr.Number(label="Peak learning rate", min_width=120, elem_id="learning-rate"),
        }
    controls["images"] = gr.Textbox(
        label="Folder of pictures", info="for training on pictures and videos together"
    )
    controls["pipeline"] = gr.Textbox(
        label="Go on from a checkpoint", info="folder of a model, such as assets/mini"
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
