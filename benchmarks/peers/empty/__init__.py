"""A limit: what the lane's server can do when there is nothing to do."""
