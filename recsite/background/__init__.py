"""What workers, loaders and beat tell of themselves: that they live, and how their tasks end."""
