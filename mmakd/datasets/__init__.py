"""Data for student and teacher."""
from .two_views import TwoViews

__all__ = ['TwoViews']
