"""Metrics of GLINT."""
