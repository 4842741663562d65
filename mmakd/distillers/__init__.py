"""The distiller: student, frozen teacher, and what is compared between them."""
from .avatar_distiller import AvatarDistiller
from .conv_adapter import ConvAdapter
from .mask_token_learner import MaskTokenLearner

__all__ = ['AvatarDistiller', 'ConvAdapter', 'MaskTokenLearner']
