"""Avatar Knowledge Distillation for MMDetection and MMSegmentation.

Importing the package (``custom_imports = dict(imports=['mmakd'])`` in a config) registers every
component in MMEngine's root registries, where both mmdet's and mmseg's scopes find them.
"""
from . import avatars, datasets, distillers, hooks, losses, metrics
from .utils import amp
from .version import __version__

__all__ = [
    '__version__', 'amp', 'avatars', 'datasets', 'distillers', 'hooks', 'losses', 'metrics'
]
