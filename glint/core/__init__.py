"""Core of GLINT."""
