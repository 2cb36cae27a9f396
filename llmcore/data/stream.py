"""`TextStream`: batches straight from text files, in constant memory, resumable after any batch.

Files are read in blocks of whole lines and each block is tokenized by itself, so a pattern that joins the white space of two lines may
cut differently at a block's edge than tokenizing the file at once would; token files have no such edges.
Under several processes every process reads all the text and keeps its own rows, so that the data order does not depend on their number.
"""

# Shapes: B rows, T context.
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmcore.data.batches import Batch, batch_of_windows
from llmcore.data.token_file import special_id, text_files

BLOCK_BYTES = 1 << 16


class TextStream:
    """Rows of `context` tokens, one after another through the files, for ever; every token is a target once per pass.

    Each file is a document; `end_of_text` names the special token put after each. With `document_masks` documents in one row are
    told apart. `shuffle_rows` rows are held back and drawn from at random; 0 keeps the order of the text.

    Raises: FileNotFoundError; ValueError for text that is not UTF-8 (file and offset), files without any text, or values out of range.
    """

    def __init__(
        self,
        source: str | Path | Sequence[str | Path],
        tokenizer: Any,
        batch_size: int,
        context: int,
        *,
        end_of_text: str | None = None,
        document_masks: bool = False,
        shuffle_rows: int = 0,
        seed: int = 0,
    ) -> None:
        if batch_size < 1 or context < 1 or shuffle_rows < 0:
            raise ValueError(
                f"batch_size and context must be at least 1 and shuffle_rows at least 0, got {batch_size}, {context}, {shuffle_rows}"
            )
        if document_masks and end_of_text is None:
            raise ValueError("document_masks needs end_of_text, the special token that separates documents")
        self.files = text_files(source)
        self.tokenizer, self.batch_size, self.context = tokenizer, batch_size, context
        self.end = None if end_of_text is None else special_id(tokenizer, end_of_text)
        self.document_masks, self.shuffle_rows, self.seed = document_masks, shuffle_rows, seed
        self._file, self._offset, self._drawn, self._tokens_in_pass = 0, 0, 0, 0
        self._ids: list[int] = []
        self._pool: list[np.ndarray] = []

    def batch(self, step: int, rows: np.ndarray) -> Batch:
        """These rows of the next global batch; `step` is not needed, as the stream knows where it is."""
        windows = [self._draw() for _ in range(self.batch_size)]
        chosen = torch.from_numpy(np.stack([windows[int(row)] for row in rows]))
        return batch_of_windows(chosen, self.end if self.document_masks else None)

    def state(self) -> dict[str, Any]:
        """Where the stream is: file, byte, and the tokens read but not yet given out."""
        return {
            "file": str(self.files[self._file]),
            "offset": self._offset,
            "drawn": self._drawn,
            "tokens_in_pass": self._tokens_in_pass,
            "ids": torch.tensor(self._ids, dtype=torch.int64),
            "pool": torch.from_numpy(np.stack(self._pool)) if self._pool else torch.empty(0, self.context + 1),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where `state` was taken.

        Raises: ValueError when that file is not among this stream's.
        """
        names = [str(file) for file in self.files]
        if state["file"] not in names:
            raise ValueError(
                f"the stream was reading {state['file']!r}, which is not among its files {', '.join(names[:3])}"
            )
        self._file, self._offset = names.index(state["file"]), state["offset"]
        self._drawn, self._tokens_in_pass = state["drawn"], state["tokens_in_pass"]
        self._ids = state["ids"].tolist()
        self._pool = [row.numpy() for row in state["pool"].long()]

    def _draw(self) -> np.ndarray:
        """The next row, by way of the pool when there is one."""
        if not self.shuffle_rows:
            return self._next_window()
        while len(self._pool) < self.shuffle_rows:
            self._pool.append(self._next_window())
        place = int(np.random.default_rng((self.seed, self._drawn)).integers(self.shuffle_rows))
        self._drawn += 1
        row, self._pool[place] = self._pool[place], self._next_window()
        return row

    def _next_window(self) -> np.ndarray:
        while len(self._ids) <= self.context:
            self._read_block()
        window = np.array(self._ids[: self.context + 1], dtype=np.int64)
        del self._ids[: self.context]
        return window

    def _read_block(self) -> None:
        """Tokenize the next lines of the current file, or finish it and turn to the next."""
        path = self.files[self._file]
        with open(path, "rb") as file:
            file.seek(self._offset)
            block = file.read(BLOCK_BYTES)
        if not block:
            self._finish_file()
            return
        if len(block) == BLOCK_BYTES:
            block = block[: _last_cut(block)]
        try:
            text = block.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{str(path)!r} is not UTF-8 at byte {self._offset + error.start}: {error.reason}; convert it first (iconv -t utf-8)"
            ) from None
        ids = self.tokenizer.encode(text)
        self._offset += len(block)
        self._tokens_in_pass += len(ids)
        self._ids += ids

    def _finish_file(self) -> None:
        if self.end is not None:
            self._ids.append(self.end)
        self._file, self._offset = (self._file + 1) % len(self.files), 0
        if self._file == 0:
            if self._tokens_in_pass == 0:
                raise ValueError(f"there is no text in {', '.join(map(str, self.files[:3]))}; nothing to train on")
            self._tokens_in_pass = 0


def _last_cut(block: bytes) -> int:
    """Where to end a block: after its last newline, or before a character that is cut off."""
    newline = block.rfind(b"\n")
    if newline >= 0:
        return newline + 1
    end = len(block)
    while end > len(block) - 4 and block[end - 1] & 0xC0 == 0x80:
        end -= 1
    return end - 1 if block[end - 1] >= 0xC0 else len(block)
