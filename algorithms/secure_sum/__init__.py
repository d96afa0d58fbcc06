"""secure_sum: one masked pass around the ring of stations (Clifton et al. 2002)."""
