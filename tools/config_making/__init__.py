"""Insides of tools/make_config.py."""
