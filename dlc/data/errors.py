"""The one error that a dataset raises when its files or packages are not as they should be."""

from dlc.base.errors import DlcError


class DatasetError(DlcError, RuntimeError):
    """A data file is missing, truncated or corrupt, or a package is not installed; the message says what to do."""
