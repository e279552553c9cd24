"""Training data: sets of videos and images, what is drawn from them, and the samples a stage learns from.

``sources`` says what a set is; ``dancers``, ``videos``, ``images`` and ``shards`` are the kinds there are,
``opening`` finds out which of them a folder holds. ``draws`` has everything that is left to chance,
``samples`` puts the tensors together. ``python -m training.data --help`` prepares and checks folders.
"""
