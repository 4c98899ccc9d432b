"""Couriers and orders that behave like real ones: a simulated fleet, and recorded fixes played again."""
