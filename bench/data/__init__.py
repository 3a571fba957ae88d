"""What the project ships as data; every figure has a source and a date."""

from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).parent


def shipped(folder: str) -> Path:
    """The folder of that name that ships with the project: in a wheel, or in the checkout."""
    package = Path(__file__).parent.parent
    inside = package / "shipped" / folder
    return inside if inside.is_dir() else package.parent / folder
