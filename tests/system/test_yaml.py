import resource
import subprocess
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ctmr.errors import UsageError
from ctmr.system.yaml import MAX_BYTES, parse_yaml, read_yaml


def test_mapping_is_read(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("a: 1\nb: {c: [true, null, 'ä']}\n", encoding="utf-8")
    assert read_yaml(file) == {"a": 1, "b": {"c": [True, None, "ä"]}}


@pytest.mark.parametrize("text", ["2e-4", "2E-4", "+2e-4", "0.0002", "2.0e-4"])
def test_number_with_an_exponent_is_a_number(text):
    assert parse_yaml(text, "here") == 2e-4
    assert parse_yaml(f"{{a: {{b: {text}}}}}", "here") == {"a": {"b": 2e-4}}


def test_text_stays_text():
    assert parse_yaml("{a: resnet34, b: 3x, c: -, d: 'e5'}", "here") == {
        "a": "resnet34",
        "b": "3x",
        "c": "-",
        "d": "e5",
    }


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1\nb: 2\na: 3", "key given twice: a"),
        ("x: {b: 1, c: 2, b: 3, c: 4}", "key given twice: b, c"),
        ("1: a\ntrue: b", "key given twice: 1"),
        ("a: &x 1\nb: *x", "aliases are not allowed"),
        ("a: !!python/object/apply:os.system ['true']", "tags are not allowed"),
        ("a: !!int '5'", "tags are not allowed"),
        ("!!binary aGVsbG8=", "tags are not allowed"),
        ("a: !secret x", "tags are not allowed"),
        ("{<<: {a: 1}}", "merge"),
        ("? [1]\n: 2", "unhashable key"),
        ("a: 1\n---\nb: 2", "single document"),
        ("a: [1", "expected"),
        ("a:\n\t- 1", "cannot start any token"),
        ("a: \x00", "special characters"),
        ("a: 2001-99-99", "month must be in"),
        ("a: " + "1" * 5000, "4300 digits"),
        ("[" * 5000, "recursion"),
    ],
)
def test_yaml_that_is_not_plain_is_refused(text, why):
    with pytest.raises(UsageError, match=rf"^here: not plain YAML .*{why}.*Fix: correct it\.$"):
        parse_yaml(text, "here")


@given(st.text(max_size=60))
@example("=")
@example("0b")
@example("a: 0x")
def test_any_text_is_read_or_refused(text):
    try:
        parse_yaml(text, "here")
    except UsageError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017


@pytest.mark.parametrize("text", ["", "- 1", "3", "text"])
def test_file_that_is_no_mapping_is_refused(tmp_path, text):
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(
        UsageError, match=r"a\.yaml: expected a mapping of settings, found \w+\. Fix"
    ):
        read_yaml(file)


def test_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot read it"):
        read_yaml(tmp_path / "a.yaml")
    with pytest.raises(UsageError, match="cannot read it"):
        read_yaml(tmp_path)


def test_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"a: \xff")
    with pytest.raises(UsageError, match="cannot read it"):
        read_yaml(tmp_path / "a.yaml")


def test_file_of_more_than_a_megabyte_is_refused_and_one_byte_less_is_not(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_bytes(b"a: 1 #" + b"x" * (MAX_BYTES - 6))
    assert read_yaml(file) == {"a": 1}
    file.write_bytes(b"a: 1 #" + b"x" * (MAX_BYTES - 5))
    with pytest.raises(UsageError, match="expected at most 1000000 bytes: found"):
        read_yaml(file)


def test_huge_file_is_refused_without_reading_it(tmp_path):
    file = tmp_path / "huge.yaml"
    with file.open("wb") as stream:
        stream.truncate(200_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UsageError, match="expected at most 1000000 bytes"):
        read_yaml(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


def test_many_keys_take_time_in_proportion():
    """Looking for duplicates by comparing all keys with all others took minutes for 1 MB."""
    script = (
        "from ctmr.system.yaml import parse_yaml;"
        "assert len(parse_yaml('\\n'.join(f'k{i}: 1' for i in range(20000)), 'here')) == 20000"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_laughs_are_not_a_billion(tmp_path):
    lines = ["a0: &a0 [x, x]"]
    lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 40)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    with pytest.raises(UsageError, match="aliases are not allowed"):
        read_yaml(tmp_path / "a.yaml")
