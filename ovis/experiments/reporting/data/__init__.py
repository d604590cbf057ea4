"""From the folders of runs to tables: read, select, aggregate."""
