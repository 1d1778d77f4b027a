"""What can be known of a training before it starts."""
