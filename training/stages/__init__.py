"""The stages: each builds its networks and computes its loss; `training.loop` does the rest."""
