"""Cli of GLINT."""
