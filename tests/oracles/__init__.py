"""Slow, obvious versions of every scorer, written from the definitions: one file each, named as in SCORERS."""
