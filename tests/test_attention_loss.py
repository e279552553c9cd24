"""The loss on the attention to the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention

from magicanimate.models.hybrid_attention import HybridSelfAttention
from tests.rounding import assert_same_but_for_rounding
from training.attention_loss import WatchedAttention, attention_losses

SIDE, PIXELS = 4, 32  # tokens, pixels of a side


def part_map(*places: tuple[int, int, int]) -> torch.Tensor:
    """Part ids, H W: background but for one token's square of each (row, column, label)."""
    labels = np.zeros((PIXELS, PIXELS), np.uint8)
    cell = PIXELS // SIDE
    for row, column, label in places:
        labels[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell] = label
    return torch.from_numpy(labels)


def looking(at: dict[int, int]) -> WatchedAttention:
    """A reader whose tokens attend to their own place, but for those in ``at``: token -> another place."""
    attention = torch.eye(SIDE * SIDE)[None].clone()
    for token, there in at.items():
        attention[0, token] = 0
        attention[0, token, there] = 1
    reader = WatchedAttention()
    reader.attention = attention
    return reader


def loss(reader: WatchedAttention, reference: torch.Tensor, target: torch.Tensor) -> float:
    maps = reference[None], target[None, None]
    return float(attention_losses({"block": reader}, *maps, size=(SIDE, SIDE)))


def test_a_part_is_looked_for_where_it_is_and_background_at_its_own_place():
    reference, target = part_map((0, 1, 3)), part_map((3, 2, 3))
    hand_here, hand_there = 3 * SIDE + 2, 1
    assert loss(looking({hand_here: hand_there}), reference, target) == pytest.approx(0, abs=1e-5)
    # A hand that looks elsewhere costs the most there is, halved as background is one of the two.
    assert loss(looking({}), reference, target) == pytest.approx(-math.log(1e-4) / 2, rel=1e-4)
    # One of the 14 tokens that are background in both looks beside itself.
    astray = loss(looking({hand_here: hand_there, 5: 6}), reference, target)
    assert astray == pytest.approx(-math.log(1e-4) / 14 / 2, rel=1e-4)


def test_what_the_reference_does_not_show_costs_nothing():
    reference, target = part_map((0, 1, 3)), part_map((0, 1, 7))  # a hand is there; no leg to be seen
    assert loss(looking({1: 9}), reference, target) == pytest.approx(0, abs=1e-5)


def test_smaller_blocks_are_judged_by_the_same_maps():
    small = WatchedAttention()
    small.attention = torch.eye(4)[None]  # 2 x 2 tokens
    maps = part_map()[None], part_map()[None, None]
    assert float(attention_losses({"block": small}, *maps, size=(SIDE, SIDE))) == pytest.approx(0, abs=1e-5)


def test_watching_changes_no_result_and_the_loss_has_a_gradient():
    torch.manual_seed(0)
    attn = Attention(query_dim=8, heads=2, dim_head=4, bias=False)
    hidden, reference = torch.randn(4, SIDE * SIDE, 8), torch.randn(2, SIDE * SIDE, 8, requires_grad=True)
    plain, watched = HybridSelfAttention(), WatchedAttention()
    for reader in (plain, watched):
        reader.reference = reference
    assert_same_but_for_rounding(watched(attn, hidden), plain(attn, hidden))
    torch.testing.assert_close(watched.attention.sum(-1), torch.ones(4, SIDE * SIDE))

    maps = (
        torch.stack([part_map((0, 1, 3)), part_map()]),
        torch.stack([part_map((2, 2, 3)), part_map()])[:, None],
    )
    losses = attention_losses({"block": watched}, maps[0], maps[1].expand(-1, 2, -1, -1), size=(4, 4))
    assert losses.shape == (2,) and torch.isfinite(losses).all()
    losses.sum().backward()
    assert reference.grad.abs().sum() > 0 and attn.to_q.weight.grad.abs().sum() > 0
