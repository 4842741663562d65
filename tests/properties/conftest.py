"""Hypothesis draws the same examples each time."""
from hypothesis import settings

settings.register_profile('repeatable', derandomize=True, deadline=None, max_examples=25,
                          database=None)
settings.load_profile('repeatable')
