"""dk_secure_sum: segments to every other station, held segments added before anything is sent."""
