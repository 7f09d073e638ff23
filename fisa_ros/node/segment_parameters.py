"""Parameters of the segment node."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
import re

from fisa_ros.core.errors import FisaError
from fisa_ros.core.manifest import load_manifest
from fisa_ros.core.thresholds import Thresholds
from fisa_ros.core.vocabulary import MONO8_MAX_ID, MONO16_MAX_ID
from fisa_ros.node.parameters import ParameterError, Parameters, param
from fisa_ros.runtime.factory import BACKENDS, PRECISIONS

MASK_ENCODINGS = {'mono8': MONO8_MAX_ID, 'mono16': MONO16_MAX_ID}
TRANSPORTS = ('raw', 'compressed')
_RESERVED = ('segmentation', 'image', 'qos_overrides')
_CAMERA_NAME = re.compile(r'[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*')


@dataclass(frozen=True)
class ModelParameters(Parameters):
    """What runs and with which words it begins."""

    model: str = param('fisa-tiny', 'Name of a shipped model, or path of a manifest.', read_only=True)
    backend: str = param('auto', 'Library that runs the model.', choices=BACKENDS, read_only=True)
    device: str = param('auto', 'Where the model runs: auto, cpu, cuda or cuda:0.', read_only=True)
    precision: str = param(
        'auto',
        'Numbers that the model computes with: auto, the fastest that score as fp32 does, or fp32.',
        choices=PRECISIONS,
        read_only=True,
    )
    vocabulary: str = param(
        'indoor',
        'Words to start with: "cat; dog; grass, lawn", path of a YAML file, or name of a shipped vocabulary. '
        'Later changes go through the service set_vocabulary.',
        read_only=True,
    )
    cameras: tuple[str, ...] = param(
        ('',),
        'Names of the cameras, each put in front of the topics of one; the empty name puts nothing in front.',
        read_only=True,
    )


@dataclass(frozen=True)
class CameraParameters(Parameters):
    """What may differ between cameras: with a camera's name and a dot in front it is for that camera alone."""

    image_transport: str = param(
        'raw', 'Form of the images: raw, or jpeg and png on image/compressed.', choices=TRANSPORTS, read_only=True
    )
    depth: bool = param(
        False, 'Use depth and camera_info to publish points, detections_3d and markers.', read_only=True
    )
    depth_tolerance_s: float = param(
        0.02, 'Largest difference between the stamps of an image and of its depth.', low=0.0, high=1.0, read_only=True
    )
    rectified: bool = param(
        False, 'The images are rectified: P of camera_info describes them, not K and D.', read_only=True
    )
    tracking: bool = param(
        False, 'Keep the ids of segments from frame to frame and smooth their labels.', read_only=True
    )
    reduced_width: int = param(
        0,
        'Width of segmentation/reduced/mask, confidence and points, by nearest neighbour; 0 publishes none.',
        low=0,
        high=16384,
        read_only=True,
    )


@dataclass(frozen=True)
class SegmentParameters(CameraParameters, ModelParameters):
    """What a user can set; the thresholds start with the values that fit the model."""

    mask_encoding: str = param(
        'mono8',
        'Encoding of segmentation/mask: mono8 for 254 classes, mono16 for 65535.',
        choices=tuple(MASK_ENCODINGS),
        read_only=True,
    )
    score_threshold: float = param(0.35, 'Drop segments whose class is less probable.', low=0.0, high=1.0)
    mask_threshold: float = param(0.3, 'Drop pixels that belong less probably to their segment.', low=0.0, high=1.0)
    overlap_threshold: float = param(
        0.5, 'Drop segments of which less remains visible behind others.', low=0.0, high=1.0
    )
    objectness_trust: float = param(
        0.5,
        "How far a sure classifier overrules the mask generator's doubt that a mask is an object; 0 is never.",
        low=0.0,
        high=1.0,
    )
    id_quarantine_s: float = param(
        60.0, 'Time for which the id of a removed word is given to no other word.', low=0.0, read_only=True
    )
    autostart: bool = param(True, 'Configure and activate at start; otherwise wait for a manager.', read_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_cameras(self.cameras)

    @property
    def per_camera(self) -> CameraParameters:
        """What a camera has unless something else is said for it."""
        return CameraParameters(**{entry.name: getattr(self, entry.name) for entry in fields(CameraParameters)})

    @property
    def thresholds(self) -> Thresholds:
        """What a segment must reach."""
        return Thresholds(self.score_threshold, self.mask_threshold, self.overlap_threshold, self.objectness_trust)

    @property
    def max_class_id(self) -> int:
        """Largest class id that the mask can hold."""
        return MASK_ENCODINGS[self.mask_encoding]


def model_defaults(model: str) -> SegmentParameters:
    """Return the parameters to use with a model unless a user says otherwise."""
    try:
        thresholds = load_manifest(model).thresholds
    except FisaError:
        # Configuring loads the model and says what is wrong with it; declaring parameters cannot fail for that.
        return SegmentParameters(model=model)
    return SegmentParameters(
        model=model,
        score_threshold=thresholds.score,
        mask_threshold=thresholds.mask,
        overlap_threshold=thresholds.overlap,
        objectness_trust=thresholds.objectness_trust,
    )


def check_cameras(names: Sequence[str]) -> None:
    """Refuse names that cannot be put in front of topics.

    Raises:
        ParameterError: No name, a name twice, or one that is no part of a topic's name.
    """
    if not names:
        raise ParameterError("parameter cameras must name at least one camera; [''] is one without a name")
    for name in names:
        if names.count(name) > 1:
            raise ParameterError(f'parameter cameras has {name!r} more than once')
        if name and not _CAMERA_NAME.fullmatch(name):
            raise ParameterError(
                f'parameter cameras: {name!r} is no name for a camera; it takes letters, digits and single '
                f'underscores, a letter first'
            )
        if name in _RESERVED:
            raise ParameterError(f'parameter cameras: {name!r} is the name of other topics or parameters')
