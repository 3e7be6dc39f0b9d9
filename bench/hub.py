"""What a hub says of one repository, so that `huggingface_hub` takes a server of ours for one."""

from __future__ import annotations

import json
import re

from lavatube.weights.manifest import Manifest

REPOSITORY = "bench/weights"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVED = re.compile(rf"/{REPOSITORY}/resolve/[^/]+/(.+)")
"""The path of a file at any revision, and in it the file's name."""


def describe(manifest: Manifest) -> dict[str, str]:
    """The two answers in JSON, by the beginning of their paths; the longer one first."""
    told = {"id": REPOSITORY, "sha": COMMIT, "siblings": [{"rfilename": file.path} for file in manifest.files]}
    tree = [
        {"type": "file", "path": file.path, "size": file.size, "oid": file.sha256[:40]}
        | {"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 134}}
        for file in manifest.files
    ]
    about = f"/api/models/{REPOSITORY}"
    return {f"{about}/tree/": json.dumps(tree), about: json.dumps(told)}


def environment(root: str, home: str) -> dict[str, str]:
    """For a process whose `huggingface_hub` is to ask the server at `root`, and to keep files in `home`."""
    return {
        "HF_ENDPOINT": root,
        "HF_HOME": home,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
