"""Pupils over time: a video in, a trace out."""

from retinalib.tracking.trace import blinks, write_trace
from retinalib.tracking.tracker import Tracker, track

__all__ = ["Tracker", "blinks", "track", "write_trace"]
