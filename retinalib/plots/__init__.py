"""The style of all figures, and those figures that two places share. None needs torch."""
