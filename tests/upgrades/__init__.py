"""Two releases at once: what is there while an installation is upgraded, and while it is taken back."""
