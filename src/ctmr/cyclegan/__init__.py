"""The paper: networks, losses (1) to (5), and one step of training."""
