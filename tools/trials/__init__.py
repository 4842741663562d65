"""The insides of `tools/study.py`."""
