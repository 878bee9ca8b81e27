"""The label maps of whole heads that the bundled model was trained on, from their authors' repository."""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ctmr.errors import DataError
from ctmr.system.files import require_empty, write_bytes

SOURCE = (
    "https://raw.githubusercontent.com/BBillot/SynthSeg/66342c1/data/training_label_maps/{name}"
)
LICENCE = "Apache License 2.0, Billot et al. 2023"
SECONDS = 60
MAX_BYTES = 10_000_000  # the largest has 1.8 MB
SHA256 = {
    "training_seg_01.nii.gz": "edbf1229a0552f8ce37438d02f59e810583b71b0a1b4d31dc38e5e2b2517acb1",
    "training_seg_02.nii.gz": "65e64c6b9415f389dfda5182ec3a269836925b04166ea82f47b230e54980d0a4",
    "training_seg_03.nii.gz": "f746e2f90e4dccd7bbbdc18bdd6374e455ddb7fc044504a0a42edc8507cf1aa0",
    "training_seg_04.nii.gz": "fbcf9d5d3b946dc53cff2e9954abb8c8172960ac35b1bf80c3ca240b4feda140",
    "training_seg_05.nii.gz": "a53baa7b0faea832d45f8a5b9a234b2b6d4ca92bf5c98baeada4a935cc2f1183",
    "training_seg_06.nii.gz": "57d8c612469359da78b7c16647cc6979be461eb03b59805e7ebded51554f9ead",
    "training_seg_07.nii.gz": "feaa1e8f320e037709a51e30881fe8076a45fc06611a09bbd87e76f8f3f89826",
    "training_seg_08.nii.gz": "f4a9d39c5c64bc5457de84b10a4c4b47f3bb6257e9f396ffa61d290015f178d2",
    "training_seg_09.nii.gz": "6f41f2b755c97185167d887d95180ca4c754578f81cd30fe8119df1e20bb27d5",
    "training_seg_10.nii.gz": "4a0147bf1d52c6853176777554165d79a01656ddb8f8474da48b65d6218b664e",
    "training_seg_11.nii.gz": "02e468bbb652ff0da18eeb73932f09813150ef95155ba7669831849da8517196",
    "training_seg_12.nii.gz": "5d0a47dd3ff4d821cc758e388a49da5744bf86dee423ed93bf727472a8454d8d",
    "training_seg_13.nii.gz": "d11cf676fbd5b9316fe30acbca98c854cf88dbcee74a5fe22092ac91ccd8d3a1",
    "training_seg_14.nii.gz": "7b8d1783c1b5b71b454644169d848b28fa57a33ca4a9b49ff88ad897b8aea570",
    "training_seg_15.nii.gz": "a896e39351622c2e138195780ba267811d7d162df0da0091126550f5de3b74ff",
    "training_seg_16.nii.gz": "f48c442569883055440a930ad098b4e747d72deb6369f529e4486c36b0cbfe81",
    "training_seg_17.nii.gz": "b3497de68fe813494b619d71513bafc872b7e367ee442decd8fabc094f4402fc",
    "training_seg_18.nii.gz": "dbf3b2297907c88481594a2441a47aa13c75452cd7323fec0313b785b04c9671",
    "training_seg_19.nii.gz": "719d714096fdd3c0964ad9dae6115cef9de8d93a25105504879b0dfa844da0f8",
    "training_seg_20.nii.gz": "4c2ab7e6a7711a6e00b7e6c6b40d5fd8c318d0aea3c472248b97d9d4c8cea555",
}


def fetch_anatomies(out: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Download the 20 label maps of Billot et al. 2023 (SynthSeg) to `out`; each must have the known hash.

    Args:
        out: New folder.
        progress: Called with the number of maps done, and of all.

    Raises:
        DataError: If one cannot be had, or is another.
        OutputError: If `out` is not new or empty, or cannot be written.
    """
    require_empty(out)
    written: list[Path] = []
    try:
        for name, sha256 in SHA256.items():
            content = _download(SOURCE.format(name=name), out)
            if hashlib.sha256(content).hexdigest() != sha256:
                raise DataError(
                    f"expected the label map {name} with sha256 {sha256[:16]}..., found another file",
                    file=out,
                    fix="try again later, or take them from github.com/BBillot/SynthSeg",
                )
            write_bytes(out / name, content)
            written.append(out / name)
            if progress is not None:
                progress(len(written), len(SHA256))
    except BaseException:  # all or none
        for file in written:
            with suppress(OSError):
                file.unlink()
        raise
    return out


def _download(url: str, out: Path) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            content: bytes = answer.read(MAX_BYTES)
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise DataError(
            f"cannot download {url} ({reason})",
            file=out,
            fix="check the network, or download the folder by hand from github.com/BBillot/SynthSeg",
        ) from error
    return content
