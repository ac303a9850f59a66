"""What several methods train: policy families and critics, each with its losses."""
