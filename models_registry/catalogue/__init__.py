"""What is served: models, layouts, versions, their sources, and the rules and limits they keep."""
