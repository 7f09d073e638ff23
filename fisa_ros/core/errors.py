"""Errors that a user can cause and mend."""


class FisaError(Exception):
    """Base of every error whose text is meant for a user: it names the value and the limit."""


class VocabularyError(FisaError):
    """A vocabulary that cannot be used; nothing of it was applied."""


class ManifestError(FisaError):
    """A model manifest that is missing, unreadable or contradicts itself."""


class WeightsError(FisaError):
    """Model weights that are missing, corrupt or do not fit the network."""


class DownloadError(FisaError):
    """A file of a model that cannot be fetched or is not the one it should be."""


class GraphsError(FisaError):
    """Exported graphs that are missing, damaged or of another model."""


class BackendUnavailableError(FisaError):
    """A back-end or device that this machine does not have."""


class EngineError(FisaError):
    """A TensorRT engine that cannot be built, loaded or trusted."""


class EngineRefusedError(EngineError):
    """An engine that the builder cannot make of this graph, however often it is asked."""


class GpuFailedError(EngineError):
    """A GPU on which this process can run nothing any more."""


class EngineCacheError(FisaError):
    """A folder of engines that cannot be read or written."""


class BuildCancelledError(FisaError):
    """A build that was asked to stop, and did."""


class GpuMemoryError(FisaError):
    """Too little memory on the GPU."""


class ImageError(FisaError):
    """An image whose size, layout or encoding cannot be read."""


class CalibrationError(FisaError):
    """A calibration of a camera that is missing, contradicts itself or does not fit its images."""


class DataError(FisaError):
    """A data set, recipe or checkpoint that cannot be read."""


class SourceError(FisaError):
    """A folder, video or camera that gives no images."""


class BagError(FisaError):
    """A recording that cannot be read or written, or holds nothing of use."""
