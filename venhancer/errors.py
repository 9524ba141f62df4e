"""Errors that the user can fix. Any other exception is a bug and keeps its traceback."""


class VEnhancerError(Exception):
    """Base class; its message is one line: what was found, what was expected, what to do."""


class ConfigError(VEnhancerError):
    """Sizes that do not fit together."""


class ShapeError(VEnhancerError):
    """A tensor of the wrong shape at an entry point of the library."""


class OptionError(VEnhancerError):
    """An option, or a combination of options, that cannot be carried out."""


class VideoError(VEnhancerError):
    """An input that cannot be read as video."""


class OutputError(VEnhancerError):
    """A place that cannot be written to."""


class WeightsError(VEnhancerError):
    """A checkpoint that is missing, cut short, changed or of another model."""


class TrainingError(VEnhancerError):
    """A run that cannot go on: its loss is no longer a number."""


class Cancelled(VEnhancerError):  # noqa: N818  a wanted end is not an error
    """Raised by a progress callback to end a run, which can be resumed from its job."""


class DeviceError(VEnhancerError):
    """A device or a package that this machine does not have."""


class BundleError(VEnhancerError):
    """A bundle of exported networks that is cut short, changed, or made for something else."""
