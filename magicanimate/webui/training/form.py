"""The fields of the Train tab, named as those of `TrainingConfig`."""

from __future__ import annotations

import gradio as gr

from magicanimate.webui import views
from magicanimate.webui.texts import tr
from magicanimate.webui.training.config import PRESETS, STAGES, TrainingConfig, stages_of

Controls = dict[str, gr.components.Component]

TEXTS = ("data", "runs", "images", "pipeline", "stable_diffusion", "vae", "motion")


def what(config: TrainingConfig) -> Controls:
    """What to train."""
    return {
        name: gr.Dropdown(
            list(names),
            value=getattr(config, name),
            label=tr(label),
            info=tr(texts[getattr(config, name)]),
            filterable=False,
            elem_id=f"train-{name}",
        )
        for name, label, names, texts in (
            ("preset", "Preset", PRESETS, PRESETS),
            ("stage", "Stage", stages_of(config.preset), STAGES),
        )
    }


def data(config: TrainingConfig) -> Controls:
    """What to train on."""
    return {
        "data": gr.Textbox(
            config.data,
            label=tr("Data folder"),
            info=tr("Videos NAME.mp4 with their motion clips NAME.densepose.mp4, or rendered dancers"),
            elem_id="data",
        )
    }


def runs(config: TrainingConfig) -> Controls:
    """Where it goes."""
    return {
        "runs": gr.Textbox(
            config.runs,
            label=tr("Folder of the runs"),
            info=tr("The same for all stages of one training: each stage continues from the one before"),
            elem_id="runs",
        )
    }


def more() -> Controls:
    """Settings that are the preset's as long as they are empty."""
    gr.HTML(views.caption(tr("Empty fields are as the preset has them.")), padding=False)
    with gr.Row():
        controls: Controls = {
            "steps": gr.Number(
                label=tr("Steps in all"), precision=0, minimum=1, min_width=120, elem_id="train-steps"
            ),
            "batch_size": gr.Number(
                label=tr("Batch size"), precision=0, minimum=1, min_width=120, elem_id="batch-size"
            ),
            "holdout": gr.Number(
                label=tr("Videos kept for checking"),
                info=tr("Never learned from; empty: up to 16, at most a quarter"),
                precision=0,
                minimum=1,
                min_width=160,
                elem_id="holdout",
            ),
            "learning_rate": gr.Number(
                label=tr("Peak learning rate"), min_width=120, elem_id="learning-rate"
            ),
        }
    controls["images"] = gr.Textbox(
        label=tr("Folder of pictures"), info=tr("For training on pictures and videos together")
    )
    controls["pipeline"] = gr.Textbox(
        label=tr("Go on from a checkpoint"), info=tr("Folder of a model, such as assets/mini")
    )
    return controls


def released_weights() -> Controls:
    """What the paper's presets begin with."""
    return {
        "stable_diffusion": gr.Textbox(
            label=tr("Stable Diffusion 1.5"),
            info=tr("Its folder; not needed if you go on from a checkpoint (More)"),
        ),
        "vae": gr.Textbox(label=tr("Autoencoder"), info=tr("Folder of sd-vae-ft-mse")),
        "motion": gr.Textbox(
            label=tr("Motion weights"), info=tr("For stage2: AnimateDiff's mm_sd_v15.ckpt; may stay empty")
        ),
    }
