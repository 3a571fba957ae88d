"""This project's own inference code: static cache, compiled steps, graphs."""
