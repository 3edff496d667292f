"""What a model's files become in memory: rows stay in the file, and nothing is kept twice."""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from moodq_config.errors import ErrorCode, ModelError
from moodq_worker import model_manifest
from moodq_worker.engine_hf import load_engine
from moodq_worker.engine_hf.mapped import INDEX, WHOLE, MappedWeights, map_embedding
from moodq_worker.engine_hf.texts import read_tokenizer

TEXTS = ["这家店很好", "not bad, <|im_end|> e\u0301", ""]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_mapped_tensor_is_the_one_that_was_saved(tmp_path: Path, dtype: torch.dtype) -> None:
    saved = {"a": torch.randn(3, 5).to(dtype), "b": torch.randn(7, 2).to(dtype)}
    save_file(saved, tmp_path / WHOLE)
    weights = MappedWeights(tmp_path)
    for name, tensor in saved.items():
        mapped = weights.tensor(name)
        assert mapped is not None
        assert mapped.dtype == dtype
        assert torch.equal(mapped, tensor)
    assert weights.tensor("c") is None


def test_a_tensor_is_found_in_its_part_of_a_model(tmp_path: Path) -> None:
    second = torch.arange(6, dtype=torch.float32).view(2, 3)
    save_file({"a": torch.zeros(2)}, tmp_path / "model-1.safetensors")
    save_file({"b": second}, tmp_path / "model-2.safetensors")
    (tmp_path / INDEX).write_text(
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-3.safetensors"}}'
    )
    weights = MappedWeights(tmp_path)
    mapped = weights.tensor("b")
    assert mapped is not None
    assert torch.equal(mapped, second)
    assert weights.tensor("c") is None
    assert weights.tensor("d") is None


def test_elements_of_another_kind_are_not_mapped(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4, dtype=torch.int8)}, tmp_path / WHOLE)
    assert MappedWeights(tmp_path).tensor("a") is None


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system has no such advice")
def test_pages_that_are_let_go_of_take_no_memory_and_can_be_read_again(tmp_path: Path) -> None:
    table = torch.randn(4096, 1024)  # 16 MB
    save_file({"table": table}, tmp_path / WHOLE)
    weights = MappedWeights(tmp_path)
    mapped = weights.tensor("table")
    assert mapped is not None
    assert torch.equal(mapped, table)
    process = psutil.Process()
    touched = process.memory_info().rss
    weights.forget()
    assert touched - process.memory_info().rss > 12_000_000
    assert torch.equal(mapped, table)


def test_only_an_embedding_of_the_models_precision_is_read_from_the_file(tmp_path: Path) -> None:
    config = Qwen2Config(
        vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=False,
    )  # fmt: skip
    model: Any = Qwen2ForCausalLM(config)
    model.save_pretrained(tmp_path)
    weights = MappedWeights(tmp_path)
    ids = torch.arange(50)
    before = model.get_input_embeddings()(ids)
    assert map_embedding(model, weights)
    mapped = weights.tensor("model.embed_tokens.weight")
    assert mapped is not None
    assert model.get_input_embeddings().weight.data_ptr() == mapped.data_ptr()
    assert torch.equal(model.get_input_embeddings()(ids), before)
    assert not map_embedding(model.to(torch.bfloat16), weights)


def test_a_tokenizer_without_its_python_copies_is_the_same(tmp_path: Path) -> None:
    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: Any = [("a", "d"), ("b", "ad")]
    Qwen2Tokenizer(vocab={**letters, "ad": 256, "bad": 257}, merges=merges).save_pretrained(tmp_path)
    whole: Any = AutoTokenizer.from_pretrained(tmp_path)
    read = read_tokenizer(tmp_path)
    assert whole._vocab
    assert whole._merges
    assert not hasattr(read, "_vocab")
    assert not hasattr(read, "_merges")
    assert read.get_vocab() == whole.get_vocab()
    assert len(read) == len(whole)
    for text in TEXTS:
        assert read.encode(text) == whole.encode(text)
        assert read.decode(read.encode(text)) == whole.decode(whole.encode(text))


def test_a_model_without_a_tokenizer_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    config = Qwen2Config(
        vocab_size=50, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer files") as caught:
        load_engine(
            tmp_path, model_id="x", revision="r", licence="", device="cpu", precision="fp32", threads=1
        )
    assert caught.value.code == ErrorCode.MODEL_INVALID


def test_a_files_hash_does_not_depend_on_how_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"several pieces")
    whole = model_manifest.file_sha256(file)
    monkeypatch.setattr(model_manifest, "HASH_BYTES", 5)
    assert model_manifest.file_sha256(file) == whole
    assert whole == hashlib.sha256(b"several pieces").hexdigest()
