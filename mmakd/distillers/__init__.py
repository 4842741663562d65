"""The distiller: student, frozen teacher, and what is compared between them."""
from .avatar_distiller import AvatarDistiller
from .conv_adapter import ConvAdapter

__all__ = ['AvatarDistiller', 'ConvAdapter']
