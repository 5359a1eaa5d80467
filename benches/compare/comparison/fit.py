"""A straight line through measured points: ordinary least squares."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    intercept: float
    slope: float
    residual: float  # the largest distance of a point from the line

    def at(self, x):
        return self.intercept + self.slope * x


def line(points):
    """`points`: (x, y), of at least two different x."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    intercept = mean_y - slope * mean_x
    residual = max(abs(y - intercept - slope * x) for x, y in points)
    return Line(intercept, slope, residual)
