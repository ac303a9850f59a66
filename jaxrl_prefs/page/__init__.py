"""Pages: one HTML file with tables, plots and pictures, which needs no network."""
