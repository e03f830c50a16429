"""The dashboard's pages of this app: models, their rollouts, testers, and why a player gets what they get."""
