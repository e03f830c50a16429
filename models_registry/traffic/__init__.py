"""What was answered: counts collected from the lanes, read over time, and how far a change has spread."""
