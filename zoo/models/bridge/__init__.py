"""Bridges: an encoder of images or audio joined to a decoder of texts, which reads its features."""

from zoo.models.bridge.model import FAMILY, Bridge

__all__ = ["FAMILY", "Bridge"]
