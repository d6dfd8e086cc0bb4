"""The exceptions that a user can cause; each message names the place, the value and the way out."""


class SightlineError(ValueError):
    """A mistake in what the user gave; the command line prints its message and exits with code 2."""


class ConfigError(SightlineError):
    """A recipe or an option is wrong; the message names the key, the value and what is accepted."""


class DataError(SightlineError):
    """A data file, a row or an image can't be used; the message names file, row and remedy."""


class ModelError(SightlineError):
    """A checkpoint can't be loaded, or its family is not supported."""


class RunError(SightlineError):
    """A run directory can't be continued or read, or a run had to be stopped."""
