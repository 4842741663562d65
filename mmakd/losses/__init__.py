"""Losses between a student's and a teacher's features."""
from .beta_smoothing_loss import BetaSmoothingLoss
from .channel_wise_divergence import ChannelWiseDivergence
from .dist_loss import DISTLoss
from .entropy_weighted_kd_loss import EntropyWeightedKDLoss
from .feature_mse_loss import FeatureMSELoss
from .fgd_loss import FGDLoss
from .kl_divergence import KLDivergence
from .maskd_loss import MasKDLoss
from .mgd_loss import MGDLoss
from .pkd_loss import PKDLoss
from .uncertainty_feature_loss import UncertaintyFeatureLoss

__all__ = [
    'BetaSmoothingLoss', 'ChannelWiseDivergence', 'DISTLoss', 'EntropyWeightedKDLoss', 'FGDLoss',
    'FeatureMSELoss', 'KLDivergence', 'MGDLoss', 'MasKDLoss', 'PKDLoss', 'UncertaintyFeatureLoss'
]
