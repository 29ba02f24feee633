"""clstr runs a list of jobs on a pile of machines over SSH, from one process."""

__version__ = "1.0.0"
