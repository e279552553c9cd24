"""The part segmenter's network and settings, by preset."""

from __future__ import annotations

from transformers import SegformerConfig, SegformerForSemanticSegmentation

from densepose_tools.segmenter import NUM_LABELS
from magicanimate.palette import PART_NAMES
from training.config import OptimizerConfig, StageConfig

STAGE = "segmenter"
_SIZES = {
    "mini": {
        "image_size": 128,
        "depths": [1, 2, 2, 2],
        "hidden_sizes": [32, 64, 128, 192],
        "num_attention_heads": [1, 2, 4, 6],
        "decoder_hidden_size": 96,
    },
    "tiny": {
        "image_size": 32,
        "depths": [1, 1, 1, 1],
        "hidden_sizes": [8, 8, 16, 16],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
    },
}


def build_segmenter(preset: str) -> SegformerForSemanticSegmentation:
    """SegFormer with random weights: four stages of attention, logits at a quarter of the size.

    Source: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with
    Transformers" (NeurIPS 2021), narrower than its smallest.
    """
    names = dict(enumerate(PART_NAMES))
    config = SegformerConfig(
        num_labels=NUM_LABELS,
        id2label=names,
        label2id={name: i for i, name in names.items()},
        hidden_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        drop_path_rate=0.0,
        **_SIZES[preset],
    )
    return SegformerForSemanticSegmentation(config)


def segmenter_config(preset: str) -> StageConfig:
    """Settings of the run. The mini takes twelve minutes on one core."""
    if preset == "tiny":
        return StageConfig(
            STAGE,
            steps=4,
            batch_size=2,
            holdout=1,
            checkpoint_every=2,
            sample_every=4,
            log_every=1,
            optimizer=OptimizerConfig(warmup_steps=1),
        )
    optimizer = OptimizerConfig(
        learning_rate=1e-3, warmup_steps=100, decay_steps=1000, final_ratio=0.02, ema_decay=0.995
    )
    return StageConfig(STAGE, steps=1800, batch_size=16, sample_every=600, optimizer=optimizer)
