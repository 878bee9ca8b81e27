"""What is wrong with a data folder."""
