"""The trainings of `tools/demo.py` and its figures."""
