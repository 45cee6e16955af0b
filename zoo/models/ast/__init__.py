"""AST, the Audio Spectrogram Transformer (Gong et al. 2021)."""

from zoo.models.ast.model import AST, FAMILY, ASTConfig, from_vit

__all__ = ["AST", "FAMILY", "ASTConfig", "from_vit"]
