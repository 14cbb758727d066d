"""The former name of :mod:`retinalib.rendered`."""

from retinalib.rendered import load, make  # noqa: F401
