"""Call the appearance encoder less often, or for all steps before the first one."""

from __future__ import annotations

from dataclasses import replace

import torch

from magicanimate.sampling import Bank, Networks


def reuse_bank(networks: Networks, *, reuse: int) -> Networks:
    """Reuse the bank of an earlier step that lies at most ``reuse`` timesteps back (of 1000 in training)."""
    kept: list[tuple[int | float, Bank]] = []

    def encode(timestep: torch.Tensor) -> Bank:
        at = timestep.item()
        # A bank of a later timestep than this one is of a step that is done again.
        if not kept or not 0 <= kept[0][0] - at <= reuse:
            kept[:] = [(at, networks.encode(timestep))]
        return kept[0][1]

    return replace(networks, encode=encode)


def encode_ahead(networks: Networks, timesteps: torch.Tensor) -> Networks:
    """Compute the banks of all ``timesteps`` now, so that offloading moves the encoder once."""
    # Timesteps are few and the photo's features do not depend on the latents, so all are known beforehand.
    banks = {timestep.item(): networks.encode(timestep) for timestep in timesteps}
    return replace(networks, encode=lambda timestep: banks[timestep.item()])
