"""Sections of GLINT."""
