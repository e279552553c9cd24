"""Checkpoints: reading published weight files, converting them, fetching them, finding them."""
