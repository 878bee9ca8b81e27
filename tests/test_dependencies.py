"""What the package stands on: a floor under each dependency, and none that the project does without."""

import tomllib
from importlib.metadata import requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))[
    "project"
]
NEEDED = [Requirement(text) for text in PROJECT["dependencies"]]
TRAINING = [Requirement(text) for text in PROJECT["optional-dependencies"]["train"]]
# Row S24 of docs/project/reliability.md.
AT_LEAST = {"torch": "2.10", "pydicom": "3.0.2", "pillow": "11"}
UNWANTED = {"torchvision", "monai", "opencv-python", "pandas", "tensorflow"}


def floor(requirement: Requirement) -> Version:
    """The oldest version that is allowed."""
    (oldest,) = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    return oldest


def test_each_dependency_has_a_floor_and_is_at_least_that_here():
    for requirement in (*NEEDED, *TRAINING):
        assert Version(version(requirement.name)) >= floor(requirement), requirement


def test_floors_are_at_least_those_that_were_promised():
    floors = {requirement.name: floor(requirement) for requirement in (*NEEDED, *TRAINING)}
    assert all(floors[name] >= Version(oldest) for name, oldest in AT_LEAST.items())


def test_nothing_unwanted_is_installed_with_the_package():
    found, todo = set[str](), [requirement.name for requirement in NEEDED]
    while todo:
        name = todo.pop().lower().replace("_", "-")
        if name not in found:
            found.add(name)
            needs = [Requirement(text) for text in requires(name) or ()]
            todo += [
                each.name
                for each in needs
                if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    assert len(found) > len(NEEDED)
    assert found & UNWANTED == set()
    assert found & {"torch", "onnx", "openvino", "lightning-fabric"} == set()
