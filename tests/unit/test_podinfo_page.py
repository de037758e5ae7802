"""The example in docs/podinfo.md is what a container gets."""

from __future__ import annotations

import json
import re
from pathlib import Path

from cni.podinfo import interfaces

PAGE = (Path(__file__).parents[2] / "docs" / "podinfo.md").read_text()
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_the_example_s_annotations_and_variable_give_the_example_s_answer(tmp_path):
    (tmp_path / "annotations").write_text(BLOCKS["text"])
    variables = dict(re.findall(r"`(PCIDEVICE_\w+)=([^`]+)`", PAGE))
    assert variables
    answer = interfaces(str(tmp_path), environment=variables)
    assert json.dumps(answer, indent=2) + "\n" == BLOCKS["json"]
