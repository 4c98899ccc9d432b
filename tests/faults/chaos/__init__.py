"""Faults at random on a whole mesh under load, and an account of all that was acknowledged meanwhile."""
