"""Seconds of a training step of the reference implementation; train_step.py runs this in the reference's own environment.

    reference_time.py REFERENCE STEPS SIZE [OPTION OF THE REFERENCE'S train.py]...

Random images, one batch; prints the median of STEPS steps after one that is not counted, as JSON.
"""

import importlib
import json
import statistics
import sys
import time

import torch


def main() -> None:
    """Time the steps."""
    reference, steps, size, *options = sys.argv[1:]
    sys.path.insert(0, reference)
    sys.argv[1:] = options  # where the reference looks for its options
    opt = importlib.import_module("options.train_options").TrainOptions().parse()
    opt.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = importlib.import_module("models").create_model(opt)
    model.setup(opt)
    shape = (2, opt.batch_size, opt.input_nc, int(size), int(size))
    first, second = 2 * torch.rand(shape, generator=torch.Generator().manual_seed(0)) - 1
    model.set_input({"A": first, "B": second, "A_paths": [], "B_paths": []})
    seconds = []
    for _ in range(int(steps) + 1):
        started = time.perf_counter()
        model.optimize_parameters()
        model.get_current_losses()  # waits for a GPU
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"seconds": statistics.median(seconds[1:]), "precision": "float32"}))


if __name__ == "__main__":
    main()
