"""People's decisions, as `kmnist review` takes them: each is on disk before it counts.

A decision names the one that it replaces. If another page, another server or an editor has changed
it meanwhile, it is refused, so nobody overwrites an answer that they have not seen.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kmnist_pipeline.data import reviews
from kmnist_pipeline.data.reviews import Review
from kmnist_pipeline.errors import UserError
from kmnist_pipeline.evidence import outs, paths
from kmnist_pipeline.repository.names import printable
from kmnist_pipeline.serving.queues import Item, Queue, alone


class ChangedError(UserError):
    """The decision about an image is not the one that the page has shown."""


class Decisions:
    """The decisions about the images of a queue, in the dataset's file."""

    def __init__(self, queue: Queue, shape: tuple[int, ...]) -> None:
        """Raises ReviewError if the file cannot be used. Standard error names double answers."""
        self.queue = queue
        self.file = Path(paths.decisions(queue.dataset))
        self.images = Path(paths.reviewed(queue.dataset))
        self._shape = shape
        self._content: bytes | None = None
        self._known: dict[str, Review] = {}
        self._refresh()

    def of(self, item: Item) -> str | None:
        """The decision about an image: a class, `excluded`, or None."""
        review = self._known.get(item.sha256)
        return review.new if review else None

    def left(self) -> list[int]:
        """The places of the images without a decision."""
        return [n for n, item in enumerate(self.queue.items) if item.sha256 not in self._known]

    def decide(self, item: Item, before: str | None, after: str | None) -> None:
        """Replace the decision `before` about an image, on disk; `after` None undoes it.

        Raises ChangedError if the decision is another one by now, and ReviewError if the file was
        changed so that it cannot be used; then nothing is written.
        """
        if after not in (None, reviews.EXCLUDED, *self.queue.classes):
            raise UserError(f"{after}: is not a class of {self.queue.dataset}")
        with alone(self.queue.dataset):
            self._refresh()
            if (now := self.of(item)) != before:
                did = f"decided meanwhile: {now}" if now else "undone the decision meanwhile"
                raise ChangedError(f"somebody else has {did}")
            if before == after:
                return
            decided = dict(self._known)
            if after is None:
                del decided[item.sha256]
            else:
                decided[item.sha256] = self._review(item, after)
            # A row without its image is an error; an image without a row does no harm.
            if item.label is None and after is not None:
                self._store_image(item)
            self._write(self.file, reviews.encode(decided.values()))
            self._known = decided
            self._content = self.file.read_bytes()

    def _review(self, item: Item, new: str) -> Review:
        known = self._known.get(item.sha256)
        old = known.old if known else item.published  # of equal images there can be two
        return Review(item.sha256, item.origin, old, new, item.asked_by)

    def _store_image(self, item: Item) -> None:
        content = self.images.read_bytes() if self.images.exists() else reviews.images_bytes([])
        stored = reviews.images_of(content, str(self.images), self._shape)
        if item.sha256 not in map(reviews.digest, stored):
            self._write(self.images, reviews.images_bytes([*stored, item.pixels]))

    def _refresh(self) -> None:
        content = self.file.read_bytes() if self.file.exists() else None
        if content == self._content:
            return
        known = dict[str, Review]()
        if content is not None:
            known, notes = reviews.parse(content, str(self.file), self.queue.classes)
            for note in notes:  # the next decision leaves the earlier answers out
                print(printable(note), file=sys.stderr)
        self._known, self._content = known, content  # both or, if the file is broken, neither

    def _write(self, path: Path, content: bytes) -> None:
        outs.write_bytes(path, content)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # so that the new name of the file is on the disk too
        finally:
            os.close(folder)
