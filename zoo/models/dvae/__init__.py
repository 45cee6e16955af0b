"""Discrete variational autoencoders, which write images as tokens: DALL-E's dVAE (Ramesh et al. 2021) and VQ-VAE."""

from zoo.models.dvae.model import FAMILY, DiscreteVAE, DiscreteVAEConfig, DiscreteVAEOutput

__all__ = ["FAMILY", "DiscreteVAE", "DiscreteVAEConfig", "DiscreteVAEOutput"]
