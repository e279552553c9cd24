"""Metrics of animations: pure functions of uint8 videos ``F H W 3``, the ground truth first."""
