"""Losses between a student's and a teacher's features."""
from .channel_wise_divergence import ChannelWiseDivergence
from .feature_mse_loss import FeatureMSELoss
from .uncertainty_feature_loss import UncertaintyFeatureLoss

__all__ = ['ChannelWiseDivergence', 'FeatureMSELoss', 'UncertaintyFeatureLoss']
