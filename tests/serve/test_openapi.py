"""The OpenAPI document: Cog's shape, the original predictor's inputs, and no status that is not documented."""

from __future__ import annotations

import re

import httpx
import pytest

from lavatube.serve.openapi import openapi_document

DOCUMENT = openapi_document(4096)
INPUT = DOCUMENT["components"]["schemas"]["Input"]


def test_the_inputs_are_those_of_the_original_predictor() -> None:
    assert INPUT["required"] == ["image", "prompt"]
    facts = {
        name: {key: value for key, value in field.items() if key not in ("title", "description")}
        for name, field in INPUT["properties"].items()
    }
    assert list(facts)[:7] == ["image", "prompt", "top_p", "temperature", "max_tokens", "seed", "top_k"]
    assert facts["image"] == {"type": "string", "format": "uri", "x-order": 0}
    assert facts["prompt"] == {"type": "string", "x-order": 1}
    assert facts["top_p"] == {"type": "number", "minimum": 0, "maximum": 1, "default": 1.0, "x-order": 2}
    assert facts["temperature"] == {"type": "number", "minimum": 0, "default": 0.2, "x-order": 3}
    assert facts["max_tokens"] == {"type": "integer", "minimum": 0, "maximum": 4096, "default": 1024, "x-order": 4}
    assert facts["seed"] == {"type": "integer", "minimum": 0, "maximum": 2**63 - 1, "nullable": True, "x-order": 5}
    assert all(field["title"] and field["description"] for field in INPUT["properties"].values())


def test_cogs_operations_and_output() -> None:
    assert DOCUMENT["openapi"] == "3.0.2"
    assert DOCUMENT["info"]["title"] == "Cog"
    create = DOCUMENT["paths"]["/predictions"]["post"]
    assert create["operationId"] == "predict_predictions_post"
    assert create["x-cog-streaming"] is True
    assert DOCUMENT["components"]["schemas"]["Output"]["x-cog-array-display"] == "concatenate"


def test_a_smaller_limit_lowers_the_default_too() -> None:
    field = openapi_document(100)["components"]["schemas"]["Input"]["properties"]["max_tokens"]
    assert (field["maximum"], field["default"]) == (100, 100)


def test_all_references_resolve() -> None:
    names = set(re.findall(r"'#/components/schemas/(\w+)'", str(DOCUMENT)))
    assert names <= set(DOCUMENT["components"]["schemas"])


@pytest.mark.parametrize("path", list(DOCUMENT["paths"]))
def test_every_path_exists_and_answers_only_documented_statuses(shared_client: httpx.Client, path: str) -> None:
    for method, operation in DOCUMENT["paths"][path].items():
        for content in (b"", b"{}", b"[]", b"{"):
            if path == "/shutdown":
                continue
            response = shared_client.request(
                method,
                path.replace("{prediction_id}", "nothing"),
                content=content,
                headers={"content-type": "application/json"},
            )
            assert str(response.status_code) in operation["responses"], (method, path, content)
