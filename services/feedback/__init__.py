"""feedback keeps what happened: outcomes of actions, deliveries against their predictions, signals."""
