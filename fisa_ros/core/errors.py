"""Errors that a user can cause and mend."""


class FisaError(Exception):
    """Base of every error whose text is meant for a user: it names the value and the limit."""


class VocabularyError(FisaError):
    """A vocabulary that cannot be used; nothing of it was applied."""


class ManifestError(FisaError):
    """A model manifest that is missing, unreadable or contradicts itself."""


class WeightsError(FisaError):
    """Model weights that are missing, corrupt or do not fit the network."""


class BackendUnavailableError(FisaError):
    """A back-end or device that this machine does not have."""


class ImageError(FisaError):
    """An image whose size, layout or encoding cannot be read."""


class DataError(FisaError):
    """A data set, recipe or checkpoint that cannot be read."""
