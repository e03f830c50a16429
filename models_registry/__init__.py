"""What is served, and to whom: models, versions, sources, loads, tables, rollouts, and their publication."""
