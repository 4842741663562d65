"""Checking a config before any training."""
from .inspection import Inspection, inspect_config
from .preflight import train
from .report import print_report

__all__ = ['Inspection', 'inspect_config', 'print_report', 'train']
