"""The insides of tools/check_data.py."""
