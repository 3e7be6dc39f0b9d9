"""What few starts need delays none: phase 1 is imported as far as its source and its cache ask for."""

import subprocess
import sys

import pytest

RARE = ["tomllib", "pickletools", "tempfile", "lavatube.weights.staging", "lavatube.weights.archive"]
RARE += ["lavatube.weights.buckets", "lavatube.weights.hub", "lavatube.weights.torch_zip"]
FETCHING = ["http.client", "ssl", "lavatube.weights.fetch"]


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        ("lavatube.weights.provision", [*RARE, *FETCHING]),
        ("lavatube.weights.provision, lavatube.weights.web, lavatube.weights.bring", RARE),
    ],
    ids=["a ready set", "a folder's URL"],
)
def test_is_not_imported(modules: str, unwanted: list[str]) -> None:
    code = f"import sys, {modules}; print(*(name for name in sys.argv[1:] if name in sys.modules))"
    run = subprocess.run([sys.executable, "-P", "-c", code, *unwanted], check=True, stdout=subprocess.PIPE, text=True)
    assert run.stdout.split() == []
