"""What eta and route both go by: distances, and how couriers get on in a city nobody has measured yet."""
