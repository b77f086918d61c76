"""The difference between two versions of a dataset, by the pixels of the images."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from kmnist_pipeline.importing.content import digests

FEW = 3  # examples
ClassSplit = tuple[str, str]  # class and split


@dataclass(frozen=True)
class Version:
    """The images of a version: the hash of each, its class and split, and what it is called.

    shape: of an image; classes: in their order.
    """

    digests: list[bytes]
    places: list[ClassSplit]
    names: list[str]
    shape: tuple[int, ...]
    classes: list[str]


@dataclass(frozen=True)
class VersionDifference:
    """What a new version changes.

    added, removed: number of images by class; relabelled: by old and new class; moved: the number
    of images in another split; examples: a few new names of what was added or relabelled;
    form: what else has changed, the shape of the images and the classes.
    """

    added: Counter[str]
    removed: Counter[str]
    relabelled: Counter[tuple[str, str]]
    moved: int
    examples: dict[str, list[str]]
    form: list[str]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.relabelled or self.moved or self.form)

    def lines(self) -> Iterator[str]:
        """The difference as text."""
        yield from self.form
        for what, counts in (("added", self.added), ("removed", self.removed)):
            yield f"{what}: {_total(counts)}"
            yield from self._examples(what, counts)
        pairs = Counter({f"{old} -> {new}": n for (old, new), n in self.relabelled.items()})
        yield f"relabelled: {_total(pairs)}"
        yield from self._examples("relabelled", pairs)
        if self.moved:
            yield f"moved between training and test: {self.moved:,}"

    def _examples(self, what: str, counts: Counter[str]) -> Iterator[str]:
        names = self.examples.get(what, [])
        yield from (f"  {name}" for name in names)
        if names and (more := counts.total() - len(names)):
            yield f"  and {more:,} more"


def _total(counts: Counter[str]) -> str:
    parts = ", ".join(f"{name} {number:,}" for name, number in counts.most_common(20))
    more = ", ..." if len(counts) > 20 else ""
    return f"{counts.total():,}" + (f" ({parts}{more})" if counts else "")


def version(
    images: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    classes: list[str],
    names: list[str] | None = None,
) -> Version:
    """The version of a dataset that has these images."""
    is_test = np.zeros(len(images), bool)
    is_test[test] = True
    places = [
        (classes[label], "test" if held else "train")
        for label, held in zip(labels.tolist(), is_test.tolist(), strict=True)
    ]
    numbered = names or [str(row) for row in range(len(images))]
    return Version(digests(images), places, numbered, images.shape[1:], classes)


def between(old: Version, new: Version) -> VersionDifference:
    """Compare two versions: images of equal pixels are the same image.

    A class is renamed if most of its images are in one class whose name is new, and the reverse.
    """
    renamed = _renamed(old, new)
    old = replace(
        old,
        classes=[renamed.get(name, name) for name in old.classes],
        places=[(renamed.get(name, name), split) for name, split in old.places],
    )
    before, after = _by_digest(old), _by_digest(new)
    added, removed, moved = Counter[str](), Counter[str](), 0
    relabelled = Counter[tuple[str, str]]()
    examples = defaultdict[str, list[str]](list)
    for digest in dict.fromkeys([*before, *after]):
        left = Counter(old.places[row] for row in before.get(digest, ()))
        come = Counter(new.places[row] for row in after.get(digest, ()))
        left, come = left - come, come - left
        gone, news = (sorted(places.elements()) for places in (left, come))
        for place in [*gone]:
            if other := next((p for p in news if p[0] == place[0]), None):
                gone.remove(place)
                news.remove(other)
                moved += 1
        both = min(len(gone), len(news))
        relabelled.update((a[0], b[0]) for a, b in zip(gone[:both], news[:both], strict=True))
        removed.update(place[0] for place in gone[both:])
        added.update(place[0] for place in news[both:])
        for what, places in (("relabelled", news[:both]), ("added", news[both:])):
            if places and len(examples[what]) < FEW:
                rows = [row for row in after[digest] if new.places[row] == places[-1]]
                examples[what].append(new.names[rows[-1]])
    form = []
    if old.shape != new.shape:
        form.append(f"shape of the images: {_shape(old.shape)} -> {_shape(new.shape)}")
    if renamed:
        pairs = [f"{before} -> {name}" for before, name in renamed.items()]
        form.append(f"classes renamed: {_some(pairs)}")
    if old.classes != new.classes:
        form.append(f"classes: {_classes(old.classes, new.classes)}")
    return VersionDifference(added, removed, relabelled, moved, dict(examples), form)


def _renamed(old: Version, new: Version) -> dict[str, str]:
    """The new name of each class that has only got another one."""
    gone, come = ({*a.classes} - {*b.classes} for a, b in ((old, new), (new, old)))
    before, after = _by_digest(old), _by_digest(new)
    both = Counter(
        (old.places[before[digest][0]][0], new.places[after[digest][0]][0])
        for digest in before.keys() & after.keys()
    )
    # The pair with most images comes last, and so is kept.
    by_size = sorted(both, key=lambda pair: (both[pair], pair))
    became, was = dict(by_size), {name: before for before, name in by_size}
    return {
        name: became[name]
        for name in old.classes
        if name in gone and became.get(name) in come and was[became[name]] == name
    }


def _classes(old: list[str], new: list[str]) -> str:
    gone, come = ([n for n in a if n not in b] for a, b in ((old, new), (new, old)))
    words = [
        f"{what} {_some(names)}" for what, names in (("without", gone), ("with", come)) if names
    ]
    return "; ".join(words) or "in another order"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - FEW:,} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def _by_digest(one: Version) -> dict[bytes, list[int]]:
    found = defaultdict[bytes, list[int]](list)
    for row, digest in enumerate(one.digests):
        found[digest].append(row)
    return found


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
