"""Figures of animations: pure functions on uint8 videos ``F H W 3``, the truth first, the result second."""
