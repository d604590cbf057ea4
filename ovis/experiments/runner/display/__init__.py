"""What the commands show on a terminal, and where there is none."""
