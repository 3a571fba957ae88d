"""What a token really costs on this card, and whether a change makes it faster and cheaper."""

__version__ = "0.1.0"
