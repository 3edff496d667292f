"""A model's folder is data: code and pickles in it are neither imported nor unpickled."""

from __future__ import annotations

import ast
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from moodq_config.errors import ModelError

ROOT = Path(__file__).parents[2]


class Bait:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"touch {self._path}",)


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, Path]:
    """A model's folder full of bait, and the file that exists once any was taken."""
    folder, taken = tmp_path / "model", tmp_path / "taken"
    folder.mkdir()
    code = f"open({str(taken)!r}, 'w')\nclass Bait: pass\nclass BaitConfig: pass\nclass BaitTokenizer: pass\n"
    (folder / "bait.py").write_text(code, "utf-8")
    maps = {
        "AutoConfig": "bait.BaitConfig",
        "AutoModelForCausalLM": "bait.Bait",
        "AutoTokenizer": ["bait.BaitTokenizer", "bait.BaitTokenizer"],
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "bait", "auto_map": maps}), "utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BaitTokenizer", "auto_map": maps}), "utf-8"
    )
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bait(taken)))
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bait(taken)))
    return folder, taken


@pytest.mark.parametrize("model_type", ["bait", "qwen2"])
def test_code_and_pickles_in_a_models_folder_are_never_run(
    model_type: str, hostile: tuple[Path, Path]
) -> None:
    from moodq_worker.engine_hf.engine import LOAD_ERRORS, load_engine
    from moodq_worker.engine_hf.texts import read_tokenizer

    folder, taken = hostile
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "model_type": model_type}), "utf-8")
    with pytest.raises(ModelError):
        load_engine(folder, model_id="x", revision="", licence="", device="cpu", precision="fp32", threads=1)
    assert not taken.exists()
    with pytest.raises(LOAD_ERRORS):
        read_tokenizer(folder)
    assert not taken.exists()
    (folder / "model.safetensors").unlink()  # only the pickle is left
    with pytest.raises(ModelError):
        load_engine(folder, model_id="x", revision="", licence="", device="cpu", precision="fp32", threads=1)
    assert not taken.exists()


#: What would read code, or make code of data. ``import_module`` is in the producer for its own names only.
FORBIDDEN_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "imp", "runpy", "yaml"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {"loads_pickle", "import_attribute", "extractall", "unpack_archive"}


@pytest.mark.parametrize("path", sorted(ROOT.glob("*/moodq_*/**/*.py")), ids=lambda path: path.name)
def test_no_module_reads_pickles_evaluates_text_or_unpacks_by_stored_names(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not FORBIDDEN_IMPORTS & {name.partition(".")[0] for name in names}, ast.dump(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS, f"line {node.lineno}"
            if node.func.id == "import_module":
                assert path.name == "__init__.py", f"line {node.lineno}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in FORBIDDEN_ATTRIBUTES, f"line {node.lineno}"
            owner = node.value.id if isinstance(node.value, ast.Name) else ""
            assert not (owner == "torch" and node.attr in {"load", "hub"}), f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg in {"trust_remote_code", "shell"}:
            assert isinstance(node.value, ast.Constant), node.arg
            assert node.value.value is False, node.arg
        if isinstance(node, ast.keyword) and node.arg == "use_safetensors":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is True
