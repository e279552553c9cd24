"""MagicAnimate: temporally consistent human image animation with a diffusion model."""

__version__ = "0.1.0"
