"""Training of GLINT."""
