"""A lab: one central host and N stations on one machine, each with its own Docker Engine."""

from overlay.lab.lab import Lab, down
from overlay.lab.shell import Progress
from overlay.lab.state import LabState

__all__ = ["Lab", "LabState", "Progress", "down"]
