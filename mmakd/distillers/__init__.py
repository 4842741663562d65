"""The distiller: student, frozen teacher, and what is compared between them."""
from .avatar_distiller import AvatarDistiller
from .conv_adapter import ConvAdapter
from .mask_token_learner import MaskTokenLearner
from .peer_distiller import PeerDistiller

__all__ = ['AvatarDistiller', 'ConvAdapter', 'MaskTokenLearner', 'PeerDistiller']
