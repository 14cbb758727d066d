"""Explorers for the notebooks, a module a chapter: each has a function that gives one widget, with controls over a picture."""
