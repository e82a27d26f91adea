"""Tables of the memory store: rows are replaced, never changed, and a journal takes back what a failed call did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Journal:
    """What has to be undone if the present transaction fails, the last first."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], object]] = []

    def note(self, undo: Callable[[], object]) -> None:
        """Remember how one change is taken back."""
        self._undo.append(undo)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep all that the block changes, or nothing; the block awaits nothing, so that nobody sees a half of it."""
        self._undo.clear()
        try:
            yield
        except BaseException:
            for undo in reversed(self._undo):
                undo()
            raise
        finally:
            self._undo.clear()


class Table(Mapping[K, V], Generic[K, V]):
    """Rows by key, in the order in which they came; to read, a mapping."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._rows: dict[K, V] = {}

    def __getitem__(self, key: K) -> V:
        return self._rows[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, key: K, row: V) -> None:
        """Insert a row, or replace the one of that key."""
        if key in self._rows:
            self._journal.note(partial(self._rows.__setitem__, key, self._rows[key]))
        else:
            self._journal.note(partial(self._rows.__delitem__, key))
        self._rows[key] = row

    def put_new(self, key: K, row: V) -> bool:
        """Insert a row where none is, and say whether none was."""
        if key in self._rows:
            return False
        self.put(key, row)
        return True

    def drop(self, key: K) -> None:
        """Delete a row."""
        self._journal.note(partial(self._rows.__setitem__, key, self._rows[key]))
        del self._rows[key]

    def drop_all(self, *, where: Callable[[K], bool]) -> int:
        """Delete the rows whose keys fit; return how many."""
        keys = [key for key in self._rows if where(key)]
        for key in keys:
            self.drop(key)
        return len(keys)


class Cell(Generic[V]):
    """One value that a transaction may set."""

    def __init__(self, journal: Journal, value: V) -> None:
        self._journal = journal
        self._value = value

    @property
    def value(self) -> V:
        """Return what stands."""
        return self._value

    def put(self, value: V) -> None:
        """Set it."""
        self._journal.note(partial(setattr, self, "_value", self._value))
        self._value = value
