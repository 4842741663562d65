"""Inspecting a config before any training."""
from .findings import Findings
from .inspection import Inspection, inspect_config
from .report import print_report

__all__ = ['Findings', 'Inspection', 'inspect_config', 'print_report']
