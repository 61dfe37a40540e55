"""The page on metrics names what pretrain, sft and generate write. (The other stages' tests compare their own runs.)"""

import ast
from pathlib import Path

import pytest

from tests.engine.metrics_page import documented
from training import engine


def written(stage):
    """Names in the calls of progress.metrics and in the dictionary `values` that is given to it."""
    tree = ast.parse((Path(engine.__file__).parent / f"{stage}.py").read_text(encoding="utf-8"))
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "progress.metrics":
            names |= {keyword.arg for keyword in node.keywords if keyword.arg not in (None, "always")}
        if isinstance(node, ast.Assign):
            target = ast.unparse(node.targets[0])
            if target == "values" and isinstance(node.value, ast.Dict):
                names |= {key.value for key in node.value.keys}
            if target.startswith("values['"):
                names.add(target[len("values['") : -len("']")])
    return names


@pytest.mark.parametrize("stage", ["pretrain", "sft", "generate"])
def test_it_documents_every_metric(stage):
    assert written(stage) == documented(stage)
    assert written(stage)
