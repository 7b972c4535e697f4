"""Losses of GLINT."""
