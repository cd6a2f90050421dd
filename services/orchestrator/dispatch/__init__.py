"""Units of work on their way to the other services."""
