"""The steps of ``make gpu-check``."""
