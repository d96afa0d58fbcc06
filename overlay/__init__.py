"""v6-overlay: algorithm containers on vantage6 data stations talk directly, encrypted."""

__version__ = "0.1.0"
