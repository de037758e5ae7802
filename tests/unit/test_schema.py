"""The files that are generated from the configuration models are up to date."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

import docs
from cni import errors
from cni.config import schema
from cni.sriov import conf_table
from cni.sriov.conf import SriovConf

PAGES = docs.pages()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_generated_file_is_up_to_date(path):
    assert path.read_text() == PAGES[path], f"{path.name} is stale: run make docs"


def test_the_fast_paths_table_is_the_models():
    assert schema.table(SriovConf) == conf_table.TABLE
    assert schema.required(SriovConf) == conf_table.REQUIRED


def test_the_tables_source_is_python_that_makes_the_table():
    names: dict[str, Any] = {}
    exec(compile(schema.table_source(SriovConf), "table", "exec"), names)
    assert (names["TABLE"], names["REQUIRED"]) == (conf_table.TABLE, conf_table.REQUIRED)


def keys(model, prefix=""):
    for name, rule in schema.table(model).items():
        yield prefix + name
        if rule[0] == "open":
            yield from keys(schema._inner(model.model_fields[name].annotation), f"{prefix}{name}.")


@pytest.mark.parametrize("key", list(keys(SriovConf)))
def test_the_reference_has_a_row_with_values_and_meaning_for_each_key(key):
    (row,) = [line for line in schema.reference(SriovConf).splitlines() if line.startswith(f"| `{key}`")]
    _, _, values, meaning, _ = (cell.strip() for cell in row.split("|"))
    assert values
    assert meaning.endswith(".")


def test_the_json_schema_has_every_key_and_what_is_required():
    published = json.loads(schema.json_schema(SriovConf))
    assert set(published["properties"]) == set(conf_table.TABLE)
    assert [one["required"] for one in published["anyOf"]] == [["deviceID"], ["master"], ["if0"]]
    assert published["properties"]["deviceID"]["anyOf"][0]["pattern"]


def test_the_page_of_errors_has_a_row_for_each_class():
    rows = [line for line in docs.errors_page().splitlines() if line.startswith("| ")][1:]
    assert [int(row.split("|")[1]) for row in rows] == [cls.code for cls in errors.catalogue()]


class Inner(BaseModel):
    size: int = Field(1, ge=0, le=9, description="A size.")


class Outer(BaseModel):
    """A model."""

    inner: Inner | None = Field(None, description="Sizes.")
    words: str = Field(description="Words.")


def test_a_model_gives_nested_rules_and_what_is_required():
    assert schema.table(Outer) == {"inner": ("open", {"size": ("integer", 0, 9)}), "words": ("string",)}
    assert schema.required(Outer) == ("words",)


def test_a_model_gives_a_reference_with_paths():
    assert schema.reference(Outer).splitlines()[4:] == [
        "| key | values | meaning |",
        "|---|---|---|",
        "| `inner` | object | Sizes. |",
        "| `inner.size` | 0 to 9 | A size. |",
        "| `words` (required) | string | Words. |",
    ]


class Element(BaseModel):
    """A section in a list."""

    text: str | None = Field(None, description="A text.")


class Whole(BaseModel):
    """A configuration with sections."""

    kind: str = Field(description="Required.")
    lists: list[list[Element]] | None = Field(None, description="Lists of sections.")
    choice: Literal["a", "b"] | None = Field(None, description="A choice.")
    anything: Any = Field(None, description="Anything.")


def test_a_type_checker_sees_each_key_of_a_section_with_the_type_of_its_values():
    source = schema.sections_source(Whole)
    assert "    class ElementDict(TypedDict, total=False):\n        text: str\n" in source
    assert "        kind: Required[str]\n" in source
    assert "        lists: list[list[ElementDict]]\n" in source
    assert '        choice: Literal["a", "b"]\n' in source
    assert "        anything: Any\n" in source


def test_the_types_of_sections_cost_nothing_at_run_time():
    names: dict[str, Any] = {}
    exec(compile(schema.sections_source(Whole), "sections", "exec"), names)
    assert not {"WholeDict", "TypedDict"} & set(names)
