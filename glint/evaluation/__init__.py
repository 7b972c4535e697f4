"""Evaluation of GLINT."""
