"""Services: calls that are answered, by their machines."""
