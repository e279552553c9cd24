"""Evaluation of a checkpoint: ``python -m training evaluate``.

``protocol`` says what is compared and how, ``networks`` finds the feature networks, ``run`` animates and
judges, ``statistics`` tells how sure the figures are, ``page`` shows them.
"""
