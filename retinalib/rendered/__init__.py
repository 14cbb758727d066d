"""Rendered faces with known landmarks, head pose and gaze: the data set that the workbook begins with."""

from retinalib.rendered.dataset import TRUTH, draw_person, draw_picture, load, make, render_face  # noqa: F401
