"""The networks, built on diffusers' own classes."""
