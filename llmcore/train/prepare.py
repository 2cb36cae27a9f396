"""From a config to tokens: the tokenizer (loaded, or trained on the text), token files, and the sources that batches come from."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import text
from llmcore.data.batches import BatchSource, PackedSource, ShuffledSource, WindowSource
from llmcore.data.stream import TextStream
from llmcore.data.token_file import TokenFile, is_token_file, text_files, tokenize_files
from llmcore.train.config import TrainConfig

CORPORA: dict[str, Callable[[], str]] = {
    "python_documentation": text.python_documentation,
    "standard_library": text.standard_library_sources,
}


@dataclass(frozen=True)
class Prepared:
    """What a run learns from."""

    source: BatchSource
    """Training batches."""
    eval_source: BatchSource | None
    """Rows to evaluate on, in a fixed order; None evaluates on nothing."""
    eval_rows: int
    """How many rows that is."""
    vocab_size: int
    """Ids are below this."""
    tokenizer: Any
    """The tokenizer; None for a token file that came without one."""
    train_tokens: Any = None
    """The training ids; None for a stream."""
    eval_tokens: Any = None
    """The evaluation ids."""


def prepare(config: TrainConfig, tokenizer: Any = None) -> Prepared:
    """Tokenizer, tokens and sources of a run; what costs time is kept in out_dir and used again when nothing changed.

    Raises: FileNotFoundError; ValueError for text that is not UTF-8, an empty corpus, a token file of another tokenizer, or fewer tokens
        than one sequence needs.
    """
    folder = Path(config.out_dir) / "data"
    train_files = source_files(config.train_data, folder)
    tokenizer = tokenizer or _tokenizer(config, train_files)
    if config.data_order == "stream":
        source = TextStream(
            train_files, tokenizer, config.batch_size, config.context, end_of_text=config.end_of_text,
            document_masks=config.document_masks, shuffle_rows=config.shuffle_rows, seed=config.seed,
        )  # fmt: skip
        train, held_out, vocab_size, end = None, None, max(tokenizer.vocab) + 1, source.end
    else:
        file = _token_file(train_files, tokenizer, folder / "train.tokens", config)
        train, held_out = _split(file, config)
        vocab_size, end = file.vocab_size, file.end_of_text
        source = _source(config, train, end)
    if config.eval_data is not None:
        held_out = _token_file(source_files(config.eval_data, folder), tokenizer, folder / "eval.tokens", config)
        if held_out.vocab_size != vocab_size:
            raise ValueError(
                f"eval_data has a vocabulary of {held_out.vocab_size}, train_data of {vocab_size}; use one tokenizer"
            )
    eval_source, rows = None, 0
    if held_out is not None and len(held_out) > config.context and config.eval_rows:
        eval_source = _eval_source(config, held_out, end)
        rows = min(config.eval_rows, eval_source.n_rows)
    return Prepared(source, eval_source, rows, vocab_size, tokenizer, train, held_out)


def source_files(data: str | tuple[str, ...], folder: Path) -> list[Path]:
    """The files that `train_data` or `eval_data` names; a corpus is written to `folder` as a text file first.

    Raises: FileNotFoundError for a name that is neither a file, a folder nor a corpus.
    """
    if isinstance(data, str) and data in CORPORA and not Path(data).exists():
        path, content = folder / f"{data}.txt", CORPORA[data]()
        if not path.exists() or path.read_text(encoding="utf-8") != content:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8", newline="")
        return [path]
    try:
        return text_files(data)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; corpora that are always there: {', '.join(CORPORA)}") from None


def _tokenizer(config: TrainConfig, train_files: list[Path]) -> Any:
    """The tokenizer of the run, kept as tokenizer.json in out_dir; None when tokens come ready and none is named."""
    from llmcore.tokenizer import BPETokenizer

    kept = Path(config.out_dir) / "tokenizer.json"
    if config.tokenizer is not None:
        tokenizer = BPETokenizer.load(config.tokenizer)
        kept.parent.mkdir(parents=True, exist_ok=True)
        if Path(config.tokenizer).resolve() != kept.resolve():
            shutil.copyfile(config.tokenizer, kept)
        return tokenizer
    if config.init_from is not None:
        from llmcore.train.start import tokenizer_beside

        tokenizer = tokenizer_beside(config.init_from)
        kept.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(kept)
        return tokenizer
    if is_token_file(train_files[0]):
        beside = train_files[0].with_name("tokenizer.json")
        return BPETokenizer.load(beside) if beside.exists() else None
    mark = _fingerprint(train_files, {"vocab_size": config.vocab_size, "end_of_text": config.end_of_text})
    mark_file = kept.with_name("tokenizer.made_from")
    if kept.exists() and mark_file.exists() and mark_file.read_text(encoding="utf-8") == mark:
        return BPETokenizer.load(kept)
    tokenizer = BPETokenizer.train(train_files, config.vocab_size, [config.end_of_text])
    kept.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(kept)
    mark_file.write_text(mark, encoding="utf-8")
    return tokenizer


def _token_file(files: list[Path], tokenizer: Any, path: Path, config: TrainConfig) -> TokenFile:
    """The token file that was named, or the one made of the text files at `path`."""
    if is_token_file(files[0]):
        if len(files) > 1:
            raise ValueError(f"give one token file, got {len(files)}; write_tokens joins several into one")
        file = TokenFile(files[0])
        if tokenizer is not None:
            file.require(tokenizer)
        return file
    from llmcore.data.token_file import tokenizer_hash

    mark = _fingerprint(files, {"tokenizer": tokenizer_hash(tokenizer), "end_of_text": config.end_of_text})
    mark_file = path.with_suffix(".made_from")
    if path.exists() and mark_file.exists() and mark_file.read_text(encoding="utf-8") == mark:
        return TokenFile(path)
    file = tokenize_files(files, tokenizer, path, end_of_text=config.end_of_text, workers=config.workers)
    mark_file.write_text(mark, encoding="utf-8")
    return file


def _fingerprint(files: list[Path], options: dict[str, Any]) -> str:
    """Changes when a file's path, size or time of change does, or an option."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps([stats, options]).encode()).hexdigest()


def _split(file: TokenFile, config: TrainConfig) -> tuple[np.ndarray, np.ndarray | None]:
    """Training and evaluation ids; nothing is held out where there is eval_data or eval_fraction is 0."""
    if config.eval_data is not None or not config.eval_fraction:
        return file.tokens, None
    cut = len(file) - int(len(file) * config.eval_fraction)
    return file.tokens[:cut], file.tokens[cut:]


def _source(config: TrainConfig, tokens: np.ndarray, end: int | None) -> BatchSource:
    needs_documents = config.document_masks or config.data_order == "packed"
    if needs_documents and end is None:
        raise ValueError(
            "this token file does not say which id ends a document; make it with end_of_text to mask documents"
        )
    if config.data_order == "packed":
        return PackedSource(tokens, config.batch_size, config.context, end_of_text=end, seed=config.seed)
    kind = WindowSource if config.data_order == "random" else ShuffledSource
    mask_end = end if config.document_masks else None
    return kind(tokens, config.batch_size, config.context, seed=config.seed, end_of_text=mask_end)


def _eval_source(config: TrainConfig, tokens: Any, end: int | None) -> Any:
    """Rows for evaluation, in order, built as the training rows are."""
    if config.data_order == "packed":
        return PackedSource(tokens, 1, config.context, end_of_text=end, shuffle=False)
    mask_end = end if config.document_masks else None
    return ShuffledSource(tokens, 1, config.context, end_of_text=mask_end, shuffle=False)
