"""What keys, agents and runs may spend."""
