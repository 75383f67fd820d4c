"""The page a run leaves behind: tables, plots, pictures, in one HTML file."""
