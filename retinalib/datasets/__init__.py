"""Readers of data sets.

A new one is a module whose ``load`` returns a :class:`retinalib.datasets.table.FaceDataset` (``london`` is the shortest
example), and its name in :func:`retinalib.workspace.open_dataset`."""
