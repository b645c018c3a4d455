"""What block-wise training by diffusion is held against."""
