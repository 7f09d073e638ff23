"""How a benchmark is run, whatever is measured."""

from dataclasses import dataclass
import math
from pathlib import Path

from fisa_ros.tools.benchmark_configuration import BenchmarkError

_MAX_FRAMES = 100_000
_MAX_RATE_HZ = 1000.0


@dataclass(frozen=True, slots=True)
class BenchmarkOptions:
    """What a user can choose besides configurations.

    Attributes:
        images: Folder of the frames.
        frames: Measured frames of each configuration.
        warm_up: Frames before those.
        peak_gflops: Limit of the machine in GFLOP/s; None to measure it or look it up.
        peak_gb_s: Limit of the machine in GB/s; None to measure it or look it up.
        rate_hz: Images per second and camera through ROS; 0 sends the next one when the last is answered.

    Raises:
        BenchmarkError: A value is out of range.
    """

    images: Path
    frames: int = 50
    warm_up: int = 5
    peak_gflops: float | None = None
    peak_gb_s: float | None = None
    rate_hz: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.frames <= _MAX_FRAMES:
            raise BenchmarkError(f'frames must be in 1..{_MAX_FRAMES}, got {self.frames}')
        if not 0 <= self.warm_up <= _MAX_FRAMES:
            raise BenchmarkError(f'warm-up must be in 0..{_MAX_FRAMES}, got {self.warm_up}')
        if not 0.0 <= self.rate_hz <= _MAX_RATE_HZ:
            raise BenchmarkError(f'rate must be in 0..{_MAX_RATE_HZ:.0f}, got {self.rate_hz:g}')
        for name in ('peak_gflops', 'peak_gb_s'):
            value = getattr(self, name)
            if value is not None and not 0.0 < value < math.inf:
                raise BenchmarkError(f'{name.replace("_", "-")} must be above 0, got {value:g}')
