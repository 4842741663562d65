"""Hooks."""
from .perturbation_hook import PerturbationHook

__all__ = ['PerturbationHook']
