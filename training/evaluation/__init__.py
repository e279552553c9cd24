"""Evaluation of a checkpoint: ``python -m training evaluate``.

``protocol`` defines what is compared and how, ``networks`` finds the feature networks, ``run`` animates the
test videos and computes the metrics, ``statistics`` estimates their uncertainty, ``page`` writes the report.
"""
