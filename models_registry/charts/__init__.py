"""Charts of traffic: what they show (`counts`), and how it is drawn as SVG (`drawing`)."""
