"""Animations and conversions as jobs, which outlive the page and the program."""
