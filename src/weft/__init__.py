"""weft: classifier heads that tie the samples of a batch together."""

__version__ = "0.1.0"
