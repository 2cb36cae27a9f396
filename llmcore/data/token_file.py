"""`TokenFile`: token ids on disk, memory-mapped, so that a corpus larger than memory is an array.

Layout: 8 bytes of magic, the length of a JSON header (uint64, little-endian), the header, zeros up to byte 4096, then the
ids as little-endian uint16 (vocabularies up to 65,536) or uint32. A file is written under a temporary name and renamed when it is
complete, so a file under its own name is a whole one.
"""

import hashlib
import json
import os
import struct
import tempfile
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = b"LLMTOK\x00\x01"
HEADER_BYTES = 4096
PIECE_CHARS = 1 << 20
HEADER_FIELDS = {"dtype", "n_tokens", "vocab_size", "tokenizer_hash", "end_of_text", "crc32"}


class TokenFile:
    """The ids of a token file as a read-only array, read from disk where it is touched.

    >>> path = Path(tempfile.mkdtemp()) / "small.tokens"
    >>> file = write_tokens(path, [[3, 1, 4], [1, 5]], vocab_size=10)
    >>> len(file), file[1:4].tolist(), file.vocab_size
    (5, [1, 4, 1], 10)

    Raises: FileNotFoundError; ValueError naming the file when it is no token file or is cut short.
    """

    vocab_size: int
    """Ids are below this."""
    tokenizer_hash: str
    """`tokenizer_hash` of the tokenizer that made the ids; empty when unknown."""
    end_of_text: int | None
    """The id after each document, None when documents are not marked."""
    tokens: np.ndarray
    """The memory map itself."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        header = _read_header(self.path)
        self.vocab_size = header["vocab_size"]
        self.tokenizer_hash = header["tokenizer_hash"]
        self.end_of_text = header["end_of_text"]
        self._crc32 = header["crc32"]
        dtype = np.dtype(header["dtype"])
        expected = HEADER_BYTES + header["n_tokens"] * dtype.itemsize
        if (size := self.path.stat().st_size) != expected:
            raise ValueError(
                f"token file {str(self.path)!r} must have {expected} bytes for its {header['n_tokens']} tokens, got {size}; "
                "it was cut short or overwritten: make it again"
            )
        shape = (header["n_tokens"],)
        self.tokens = np.memmap(self.path, dtype, "r", HEADER_BYTES, shape) if shape[0] else np.empty(0, dtype)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.tokens[index]

    def __repr__(self) -> str:
        return f"TokenFile({str(self.path)!r}, {len(self):,} tokens of a vocabulary of {self.vocab_size:,})"

    def verify(self) -> None:
        """Read the whole file and compare it with its checksum.

        Raises: ValueError naming the file when they differ.
        """
        crc = 0
        for start in range(0, len(self), 1 << 24):
            crc = zlib.crc32(self.tokens[start : start + (1 << 24)].tobytes(), crc)
        if crc != self._crc32:
            raise ValueError(f"token file {str(self.path)!r} does not match its checksum; it is damaged: make it again")

    def require(self, tokenizer: Any) -> None:
        """Check that `tokenizer` is the one that made this file.

        Raises: ValueError when it is known to be another.
        """
        if self.tokenizer_hash and self.tokenizer_hash != tokenizer_hash(tokenizer):
            raise ValueError(
                f"token file {str(self.path)!r} was made with another tokenizer; its ids mean nothing to this one: "
                "tokenize the text again, or load the tokenizer that lies beside it"
            )


def is_token_file(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as token files do."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            head = file.read(HEADER_BYTES)
    except FileNotFoundError:
        raise FileNotFoundError(f"no token file {str(path)!r}; make it with tokenize_files or write_tokens") from None
    if head[: len(MAGIC)] != MAGIC:
        raise ValueError(
            f"{str(path)!r} is no token file: it must begin with {MAGIC!r}, got {head[: len(MAGIC)]!r}; "
            "make one from text with tokenize_files"
        )
    try:
        (length,) = struct.unpack_from("<Q", head, len(MAGIC))
        header = json.loads(head[16 : 16 + length])
        if not set(header) >= HEADER_FIELDS or header["dtype"] not in ("<u2", "<u4"):
            raise ValueError
    except (ValueError, TypeError, struct.error):
        raise ValueError(f"token file {str(path)!r} has a damaged header; make it again") from None
    return header


def write_tokens(
    path: str | os.PathLike[str],
    chunks: Iterable[Sequence[int] | np.ndarray],
    vocab_size: int,
    *,
    tokenizer_hash: str = "",
    end_of_text: int | None = None,
) -> TokenFile:
    """Write the chunks of ids one after another as one token file and open it; nothing is left behind when that fails.

    Raises: ValueError for ids outside 0..vocab_size - 1 or vocab_size below 1; OSError naming the file when the disk is full.
    """
    if not 1 <= vocab_size <= 1 << 32:
        raise ValueError(f"vocab_size must be in 1..2**32, got {vocab_size}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(bytes(HEADER_BYTES))
            n_tokens, crc = 0, 0
            for chunk in chunks:
                ids = np.asarray(chunk)
                if ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= vocab_size):
                    raise ValueError(
                        f"ids must be integers in 0..{vocab_size - 1}, got {ids.min()}..{ids.max()} of {ids.dtype}; "
                        "is vocab_size that of the tokenizer?"
                    )
                data = ids.astype(dtype).tobytes()
                crc = zlib.crc32(data, crc)
                n_tokens += ids.size
                file.write(data)
            header = {
                "dtype": dtype.str, "n_tokens": n_tokens, "vocab_size": vocab_size, "tokenizer_hash": tokenizer_hash,
                "end_of_text": end_of_text, "crc32": crc,
            }  # fmt: skip
            text = json.dumps(header).encode()
            file.seek(0)
            file.write(MAGIC + struct.pack("<Q", len(text)) + text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OSError(error.errno, f"cannot write token file {str(path)!r}: {error.strerror or error}") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return TokenFile(path)


def tokenizer_hash(tokenizer: Any) -> str:
    """A short hash of what the tokenizer does: its vocabulary, merges, special tokens and pattern.

    >>> from llmcore.tokenizer import BPETokenizer
    >>> one, two = BPETokenizer.train(["aa ab"], 257), BPETokenizer.train(["aa bb bb"], 257)
    >>> tokenizer_hash(one) == tokenizer_hash(one), tokenizer_hash(one) == tokenizer_hash(two)
    (True, False)
    """
    digest = hashlib.sha256()
    for index, token in sorted(tokenizer.vocab.items()):
        digest.update(f"{index} {token!r}\n".encode())
    for name in ("merges", "special_tokens", "pattern", "normalization"):
        digest.update(f"{name} {getattr(tokenizer, name, None)!r}\n".encode())
    return digest.hexdigest()[:16]


def text_files(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    """The files that a path, or a list of paths, names: a folder stands for its .txt and .md files, in the order of their names.

    Raises: FileNotFoundError for a path that is not there; ValueError when there is no file at all.
    """
    paths = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(file for file in path.rglob("*") if file.suffix in (".txt", ".md") and file.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"no file or folder {str(path)!r}; data is read from local files")
    if not found:
        raise ValueError(f"no text file in {', '.join(map(str, paths))}; a folder is searched for .txt and .md files")
    return found


def tokenize_files(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    tokenizer: Any,
    path: str | os.PathLike[str],
    *,
    end_of_text: str | None = None,
    workers: int = 1,
) -> TokenFile:
    """Tokenize UTF-8 text files to a token file, every file one document, in constant memory.

    `end_of_text` names the special token that is written after each document. The ids are those of encoding each file whole, whatever
    the number of worker processes; with workers above 1 a script needs the usual `if __name__ == "__main__"`.

    Raises: FileNotFoundError; ValueError for text that is not UTF-8 (file and offset), a file set without any text, an end_of_text
        that the tokenizer lacks, or workers below 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    files = text_files(source)
    end = None if end_of_text is None else special_id(tokenizer, end_of_text)
    chunks = _encode_in_order(_document_pieces(files, tokenizer), tokenizer, end, workers)
    size = max(tokenizer.vocab) + 1
    file = write_tokens(path, chunks, size, tokenizer_hash=tokenizer_hash(tokenizer), end_of_text=end)
    if len(file) <= (len(files) if end is not None else 0):
        file.path.unlink()
        raise ValueError(f"there is no text in {', '.join(map(str, files[:3]))}; nothing to tokenize")
    return file


def special_id(tokenizer: Any, token: str) -> int:
    """The id of a special token.

    Raises: ValueError when the tokenizer has none of that name.
    """
    if token not in tokenizer.special_tokens:
        known = ", ".join(tokenizer.special_tokens) or "none"
        raise ValueError(f"the tokenizer has no special token {token!r}; it has {known}")
    return tokenizer.special_tokens[token]


def _document_pieces(files: list[Path], tokenizer: Any) -> Iterator[str | None]:
    """Text that can be encoded piece by piece, None after each document."""
    from llmcore.tokenizer.pretokenize import read_text, safe_pieces

    for file in files:
        if hasattr(tokenizer, "pattern"):
            yield from safe_pieces(
                read_text(file), tokenizer.pattern, list(tokenizer.special_tokens), piece_chars=PIECE_CHARS
            )
        else:
            yield "".join(read_text(file))
        yield None


def _encode_in_order(
    pieces: Iterable[str | None], tokenizer: Any, end: int | None, workers: int
) -> Iterator[list[int]]:
    closing = [] if end is None else [end]
    if workers == 1:
        for piece in pieces:
            yield closing if piece is None else tokenizer.encode(piece)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _set_tokenizer, (tokenizer,)) as pool:
        waiting: deque = deque()
        for piece in pieces:
            waiting.append(piece if piece is None else pool.submit(_encode, piece))
            if len(waiting) > 4 * workers:
                first = waiting.popleft()
                yield closing if first is None else first.result()
        for rest in waiting:
            yield closing if rest is None else rest.result()


_worker_tokenizer: Any = None


def _set_tokenizer(tokenizer: Any) -> None:
    global _worker_tokenizer
    _worker_tokenizer = tokenizer


def _encode(text: str) -> np.ndarray:
    return np.asarray(_worker_tokenizer.encode(text), dtype=np.uint32)
