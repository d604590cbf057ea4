"""Reports: from the folders of runs to tables, figures and a page."""
