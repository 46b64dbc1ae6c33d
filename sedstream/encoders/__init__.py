"""Encoder families: one module per family, and the frame-level head that stands on all of them."""
