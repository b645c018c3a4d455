"""Pretrained networks in the layouts of other libraries, read into runs and written from them."""
