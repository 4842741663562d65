"""The page of `tools/compare_models.py`: scores, costs and pictures of several models."""
