"""The paper's data set, from Kaggle, into a data folder."""

import shutil
from pathlib import Path

from ctmr.data.sources import LAYOUTS
from ctmr.errors import DataError, OutputError, UsageError
from ctmr.system.files import require_empty

DATASET = "darren2020/ct-to-mri-cgan"  # Li 2023, sec. 3
PAGE = f"kaggle.com/datasets/{DATASET}"
BY_HAND = f"download it by hand from {PAGE} and unpack it so that trainA, trainB, testA, testB lie in one folder"


def fetch_kaggle(out: Path) -> Path:
    """Download the data set of Li 2023 and copy its four folders to `out`.

    Raises:
        UsageError: If kagglehub is not installed.
        DataError: If Kaggle cannot be reached, or what came is not the data set.
        OutputError: If `out` is not new or empty, or cannot be written.
    """
    require_empty(out)
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
    names = tuple(LAYOUTS[0].values())
    roots = sorted(path.parent for path in downloaded.rglob(names[0]))
    roots = [root for root in roots if all((root / name).is_dir() for name in names)]
    if not roots:
        raise DataError(
            f"expected {', '.join(names)} in one folder of what Kaggle sent: found none",
            file=downloaded,
            fix=BY_HAND,
        )
    try:
        for name in names:
            shutil.copytree(roots[0] / name, out / name)
    except OSError as error:
        for name in names:  # all four or none
            shutil.rmtree(out / name, ignore_errors=True)
        raise OutputError(
            f"cannot copy the data set ({error.strerror or error})",
            file=out,
            fix="check free space and permissions of the folder",
        ) from error
    return out
