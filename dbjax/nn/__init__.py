"""Layers shared by the families: plain `flax.nnx` modules and pure functions, no method code."""
