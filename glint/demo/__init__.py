"""Demo of GLINT."""
