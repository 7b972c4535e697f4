"""Prepare of GLINT."""
