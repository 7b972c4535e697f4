"""Model of GLINT."""
