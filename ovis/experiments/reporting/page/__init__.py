"""The HTML page of a report: its content, and a Jinja2 template with its CSS and JavaScript."""
