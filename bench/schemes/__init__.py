"""Schemes of quantization: names, needs, bytes; no torch."""
