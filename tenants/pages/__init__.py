"""The dashboard's pages of this app: signing in, and everything that hangs on a studio."""
