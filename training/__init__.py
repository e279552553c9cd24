"""Training of MagicAnimate's networks. It depends on `magicanimate`, which never depends on it.

Reading order for somebody who knows the paper:

- ``presets``, ``config``: the supplement's settings, and all others.
- ``__main__``, ``runs``: from a command to a finished run; ``build`` and ``initial_networks`` make its
  networks, ``sets`` opens its data.
- ``loop``: the one training loop, with resuming, several processes and the moving average of the weights.
- ``stages.denoiser``: the stages of the paper (section 3.5), with their losses in ``diffusion``.
- ``data.draws``, ``data.samples``: image-video joint training, and how references are chosen.
- ``export``: the trained networks as a pipeline.

What is ours and not the paper's: the stages "vae", "base", "distill" and "sharpen", ``attention_loss``, the
rendered people in ``dancers``, and the part ``segmenter``. ``evaluation`` and ``metrics`` judge results,
``ablations`` compares configurations.
"""
