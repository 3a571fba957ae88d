"""Showing results: tables, JSON, pages. Nothing here measures or decides."""
