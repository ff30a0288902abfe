"""How long the oldest of what waits has waited, without a time for each item.

Pure: times are those of `time.monotonic()`, and are passed in.
"""

from __future__ import annotations

#: Seconds at least between two marks: an age is too high by so much at the most. A long backlog has longer steps.
STEP = 0.1

#: From so many marks on, steps are twice as long.
MOST_MARKS = 512


class Ages:
    """Marks of when which place in a stream of bytes came."""

    def __init__(self) -> None:
        #: Places, and when what begins there came; both grow.
        self._marks: list[tuple[int, float]] = []
        self._step = STEP

    def note(self, place: int, taken: int, now: float) -> None:
        """Note that what begins at this place comes now.

        :param taken: the place before which everything has been taken.
        """
        marks = self._marks
        while len(marks) > 1 and marks[1][0] < taken:
            del marks[0]
        if len(marks) <= 1:
            self._step = STEP
        if not marks or now - marks[-1][1] >= self._step:
            marks.append((place, now))
        if len(marks) > MOST_MARKS:
            self._marks, self._step = marks[::2], self._step * 2

    def since(self, place: int) -> float | None:
        """Return the time since which what is at this place has been there, or one before; None if none is known."""
        return next((came for began, came in reversed(self._marks) if began <= place), None)

    def clear(self) -> None:
        """Forget all: places are counted anew."""
        self._marks = []
