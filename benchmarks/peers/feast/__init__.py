"""Loading with Feast."""
