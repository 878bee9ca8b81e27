"""A trained model as a folder, and the engines that run it."""
