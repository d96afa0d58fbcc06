"""The only code that touches the system: programs, netlink, nftables, Docker, the vantage6 API."""
