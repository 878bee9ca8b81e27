"""Options of a training that takes a second: the preset `small` with the smallest networks, from random weights."""

TINY = [
    *("--preset", "small", "--set", "data.size=32", "--set", "network.filters=4"),
    *("--set", "train.start=random", "--set", "network.discriminator_filters=4"),
]
