"""The admin for platform staff: every table to look at, and the platform's own acts."""
