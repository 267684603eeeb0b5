"""What one would pick instead, each a script that the Python of its own environment runs."""
