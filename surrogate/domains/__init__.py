"""What data mean: the classes a user subclasses to bring a domain of their own."""
