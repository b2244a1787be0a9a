"""Write the HTML page of a report, and its figures and tables as files."""
