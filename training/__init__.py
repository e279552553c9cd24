"""Training of MagicAnimate's networks; depends on `magicanimate`, which never depends on it."""
