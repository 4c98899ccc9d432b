"""What keys, agents and runs may spend, and how many runs may go on at once."""
