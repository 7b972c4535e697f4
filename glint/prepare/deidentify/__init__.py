"""Deidentify of GLINT."""
