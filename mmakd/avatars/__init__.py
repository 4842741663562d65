"""Avatars (perturbed teacher features) and their spread (sigma)."""
from .avatar_variance import AvatarVariance
from .batch_statistics import BatchStatistics
from .drop_block import DropBlockPerturbation
from .dropout import ChannelDropoutPerturbation, DropoutPerturbation
from .gaussian_noise import GaussianNoisePerturbation
from .perturbation import Perturbation
from .uncertainty import Uncertainty

__all__ = [
    'AvatarVariance', 'BatchStatistics', 'ChannelDropoutPerturbation', 'DropBlockPerturbation',
    'DropoutPerturbation', 'GaussianNoisePerturbation', 'Perturbation', 'Uncertainty'
]
