"""vantage6 algorithms that run over the overlay."""
