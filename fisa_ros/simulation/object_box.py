"""The box of one object of a simulated room."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNIT_CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
"""`(8, 3)`, the corners of a cube of side 2 around the origin."""


@dataclass(frozen=True, slots=True)
class ObjectBox:
    """The smallest box around one object whose sides are parallel to the axes of the object's own frame.

    Attributes:
        id: The object's instance.
        class_name: Name of its category.
        center: `(3,)` float64, m, in the camera's optical frame (x right, y down, z forward).
        size: `(3,)` float64, full extents along the columns of `rotation`, m.
        rotation: `(3, 3)` float64, from the object's frame to the optical frame.
        visible_share: Of the pixels that it would cover if nothing stood in front of it, the share that shows it.
    """

    id: int
    class_name: str
    center: NDArray[np.float64]
    size: NDArray[np.float64]
    rotation: NDArray[np.float64]
    visible_share: float

    @property
    def corners(self) -> NDArray[np.float64]:
        """`(8, 3)` float64, m."""
        return self.center + (UNIT_CORNERS * self.size / 2) @ self.rotation.T
