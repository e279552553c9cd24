"""The stages. Each is an ``nn.Module`` that holds the networks and computes the losses; `training.loop`
trains it.

``denoiser`` has the paper's stages, on which ``sharpen`` and ``distill`` build; ``vae`` trains the mini's
autoencoder.
"""
