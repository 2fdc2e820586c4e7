"""Tables and pages as text, for a screen and for files: what the command line prints and a report shows."""
