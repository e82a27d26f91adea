"""
A load generator for `qflare serve`: an open loop over HTTP, for figures and for sizing.

Requests are sent when they are due, whether or not earlier ones were answered, and latency counts from then: a server
that falls behind does not look fast.  What devices compute is made ahead, between the stretches that are measured.
"""

from qflare.service.load.report import LoadReport
from qflare.service.load.run import LoadOptions, run_load

__all__ = ["LoadOptions", "LoadReport", "run_load"]
