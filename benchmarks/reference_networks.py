"""What generators of the reference compute; import_parity.py runs this in the reference's own environment.

    reference_networks.py REFERENCE CHANNELS FILTERS NET_G WEIGHTS INPUT OUTPUT

Reads WEIGHTS as the reference's test.py does, with `eval()`, and `x` (B, C, H, W) in float64 of INPUT.npz; writes `double` and
`single`, what comes out in float64 and float32, to OUTPUT.npz.
"""

import importlib
import sys

import numpy as np
import torch


def main() -> None:
    """Run the network twice."""
    reference, channels, filters, net_g, weights, source, target = sys.argv[1:]
    sys.path.insert(0, reference)
    networks = importlib.import_module("models.networks")
    network = networks.define_G(
        *(int(channels), int(channels), int(filters), net_g, "instance", False)
    )
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    x = torch.from_numpy(np.load(source)["x"])
    with torch.no_grad():
        single = network(x.float()).numpy()
        np.savez(target, single=single, double=network.double()(x).numpy())


if __name__ == "__main__":
    main()
