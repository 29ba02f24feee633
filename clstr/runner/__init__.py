"""The async shell around the scheduler: orders in, facts out.

``orders`` carries out what the scheduler wants and tells it what came of it; ``prepare`` makes a node ready for
its first job; ``attempt`` watches one job's time and silence; ``outage`` decides whose fault a lost connection is;
``descriptors`` has what failed for want of them wait.
"""

from clstr.runner.attempt import Conditions
from clstr.runner.orders import JobSource, Runner
from clstr.runner.prepare import Preparation, Processors, Push, Setup, Steps

__all__ = ["Conditions", "JobSource", "Preparation", "Processors", "Push", "Runner", "Setup", "Steps"]
