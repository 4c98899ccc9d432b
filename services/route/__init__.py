"""route: takes in orders and couriers, allocates orders, plans each courier's stops."""
