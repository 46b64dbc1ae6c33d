"""Segments out: one module per format."""
