"""Metrics of how well a network's confidence is calibrated."""
from .det_ece import DetECE
from .peer_evaluator import PeerEvaluator
from .seg_ece import SegECE

__all__ = ['DetECE', 'PeerEvaluator', 'SegECE']
