"""Formats of GLINT."""
