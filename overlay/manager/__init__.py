"""The central host: admits the stations that vantage6 vouches for and keeps their networks."""
