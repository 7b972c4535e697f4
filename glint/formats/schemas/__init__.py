"""Schemas of GLINT."""
