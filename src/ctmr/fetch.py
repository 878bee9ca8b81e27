"""The paper's data set, from Kaggle, into a data folder."""

import shutil
from pathlib import Path

from ctmr.errors import DataError, OutputError, UsageError
from ctmr.folders import LAYOUTS

DATASET = "darren2020/ct-to-mri-cgan"  # Li 2023, sec. 3
PAGE = f"kaggle.com/datasets/{DATASET}"
BY_HAND = f"download it by hand from {PAGE} and unpack it so that trainA, trainB, testA, testB lie in one folder"


def fetch_kaggle(out: Path) -> Path:
    """Download the data set of Li 2023 and copy its four folders to `out`.

    Raises:
        UsageError: If kagglehub is not installed.
        DataError: If Kaggle cannot be reached, or what came is not the data set.
        OutputError: If `out` is not new or empty.
    """
    if out.exists() and any(out.iterdir()):
        raise OutputError("expected a new or empty folder", file=out, fix="choose another OUT")
    try:
        import kagglehub
    except ImportError as error:
        raise UsageError(
            "fetch kaggle needs the kagglehub package, which is not installed",
            fix=f"pip install 'ctmr[kaggle]', or {BY_HAND}",
        ) from error
    try:
        downloaded = Path(kagglehub.dataset_download(DATASET))
    except Exception as error:  # kagglehub lets those of requests, urllib3 and its own through
        raise DataError(
            f"cannot download {DATASET} from Kaggle ({type(error).__name__})", file=out, fix=BY_HAND
        ) from error
    roots = sorted(path.parent for path in downloaded.rglob("trainA"))
    if not roots:
        raise DataError("found no folder trainA in what Kaggle sent", file=downloaded, fix=BY_HAND)
    for name in LAYOUTS[0].values():
        shutil.copytree(roots[0] / name, out / name)
    return out
