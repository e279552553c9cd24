"""Training data: sets of videos and images, and the samples that the stages draw from them.

``sources`` defines the interfaces of a set; ``dancers``, ``videos``, ``images`` and ``shards`` implement
them, and ``opening`` finds out which of them a folder holds. ``draws`` contains every random decision,
``samples`` makes the tensors, ``computed`` precomputes latents. ``raw``, ``prepare``, ``preparer``, ``flip``
and ``report`` are the commands of ``python -m training.data``, which prepare and check folders.
"""
