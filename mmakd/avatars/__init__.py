"""Avatars: perturbations of the teacher's features, and how far they spread (sigma)."""
from .avatar_variance import AvatarVariance
from .batch_statistics import BatchStatistics
from .channel_dropout import ChannelDropoutPerturbation
from .drop_block import DropBlockPerturbation
from .dropout import DropoutPerturbation
from .gaussian_noise import GaussianNoisePerturbation
from .perturbation import Perturbation

__all__ = [
    'AvatarVariance', 'BatchStatistics', 'ChannelDropoutPerturbation', 'DropBlockPerturbation',
    'DropoutPerturbation', 'GaussianNoisePerturbation', 'Perturbation'
]
