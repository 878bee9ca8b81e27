import os
from pathlib import Path

import pytest

from ctmr.errors import OutputError
from ctmr.system.cache import cache_folder


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in ("CTMR_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variable", "below"),
    [("CTMR_CACHE", "."), ("XDG_CACHE_HOME", "ctmr"), ("HOME", ".cache/ctmr")],
)
def test_cache_is_where_the_environment_says_and_for_its_user_alone(
    monkeypatch, tmp_path, variable, below
):
    monkeypatch.setenv(variable, str(tmp_path / "there"))
    assert cache_folder() == tmp_path / "there" / below
    assert cache_folder().stat().st_mode & 0o777 == 0o700


def test_user_without_a_home_is_told_of_ctmr_cache(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.raises(OutputError, match=r"expected a home folder.*set CTMR_CACHE") as caught:
        cache_folder()
    assert caught.value.exit_code == 4


def test_cache_that_cannot_be_made_is_refused_by_its_name(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    with pytest.raises(
        OutputError, match=r"cannot make the cache folder.*set CTMR_CACHE"
    ) as caught:
        cache_folder()
    assert caught.value.file == str(tmp_path / "file" / ".cache" / "ctmr")
    assert not os.path.exists(caught.value.file)
