"""Typed configuration: one file per stage, composed in `schema`."""
