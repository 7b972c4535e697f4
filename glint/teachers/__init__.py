"""Teachers of GLINT."""
