"""The version of the package; hatch reads it too."""

__version__ = "0.1.0"
