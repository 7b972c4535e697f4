"""GLINT: gated language-image alignment for radiology."""
