"""A data station: joining, the Docker-socket proxy, admission of runs and the agent."""
