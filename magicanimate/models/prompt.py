"""The stored text embedding of the empty prompt, so that no text encoder is needed without a prompt."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config


class EmptyPrompt(ModelMixin, ConfigMixin):
    """A pipeline component that holds what the text encoder makes of "".

    Args:
        num_tokens: tokens of the padded prompt, ``L`` (77 for CLIP).
        width: token width ``D``, the networks' ``cross_attention_dim``.

    Attributes:
        embedding: float tensor ``1 L D``, zeros until loaded.
    """

    config_name = "config.json"

    @register_to_config
    def __init__(self, num_tokens: int = 77, width: int = 768):
        super().__init__()
        # A buffer: it moves with the networks, is stored with them, and no optimizer sees it.
        self.register_buffer("embedding", torch.zeros(1, num_tokens, width))
