"""The drawn data of `tools/make_shapes.py`."""
