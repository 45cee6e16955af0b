"""Embedding of point clouds: each point by itself, so that the order of the points does not matter."""

from torch import Tensor, nn

from zoo.nn.frontends.inputs import check_input_dtype, check_not_empty


class PointEmbedding(nn.Module):
    """Points [B, N, F] -> tokens [B, N, D], by a linear layer. F: the coordinates x, y, z, and features of a point."""

    def __init__(self, in_features: int, width: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.proj = nn.Linear(in_features, width)

    def forward(self, points: Tensor) -> Tensor:
        if isinstance(self.proj, nn.Linear):  # optimized models convert their inputs
            check_input_dtype("points", points, self.proj.weight)
        return self.proj(points)

    def check(self, points: Tensor, keep: Tensor | None) -> None:
        """Raise ValueError for inputs that are not point clouds of this model, and for a mask that does not fit."""
        check_not_empty(points, "points")
        if points.ndim != 3 or points.shape[2] != self.in_features or not points.is_floating_point():
            raise ValueError(
                f"expected points [B, N, {self.in_features}] of a float dtype, got {tuple(points.shape)} of "
                f"{points.dtype}; use model.preprocess(clouds), or set in_features= of create_model"
            )
        if keep is not None and (keep.shape != points.shape[:2] or keep.is_floating_point()):
            raise ValueError(
                f"attention_mask is {tuple(keep.shape)} of {keep.dtype}, expected {tuple(points.shape[:2])} of "
                "integers or bools, 1 for real points"
            )
