"""What the project ships as data; every figure has a source and a date."""

from pathlib import Path
from typing import Final

DATA: Final = Path(__file__).parent
