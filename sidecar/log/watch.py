"""Waking up when the log directory changes: inotify through watchdog.

In: a directory.  Out: the names that something happened to, in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import watchdog.events
from watchdog.events import FileSystemEvent, FileSystemEventHandler

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver

_UNWANTED = frozenset({"opened", "closed_no_write"})
_WANTED = (
    "FileAttribEvent",  # since watchdog 7; before it was a FileModifiedEvent
    "FileClosedEvent",
    "FileCreatedEvent",
    "FileDeletedEvent",
    "FileModifiedEvent",
    "FileMovedEvent",
    "DirDeletedEvent",
)


class DirectoryWatch:
    """Watches one directory at a time; `wake` is called in the loop after something happened."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._observer: BaseObserver | None = None
        self._lock = threading.Lock()
        self._names: set[str] = set()

    @property
    def active(self) -> bool:
        """Whether a directory is being watched."""
        return self._observer is not None

    def start(self, directory: Path) -> None:
        """Watch `directory` from now on; OSError where the system has no more watches to give."""
        from watchdog.observers import Observer  # noqa: PLC0415 - `run --once` does without

        self.stop()
        loop = asyncio.get_running_loop()
        place = os.path.realpath(directory)  # watchdog doesn't follow symbolic links
        handler = _Handler(place, lambda name: self._note(loop, name))
        events = [kind for name in _WANTED if (kind := getattr(watchdog.events, name, None))]
        observer = Observer()
        try:
            observer.schedule(handler, place, event_filter=events)
            observer.start()
        except BaseException:
            observer.stop()
            raise
        self._observer = observer

    def stop(self) -> None:
        """Stop watching, and the threads with it."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join()

    def take(self) -> set[str]:
        """The names that something happened to since the last call."""
        with self._lock:
            names, self._names = self._names, set()
        return names

    def _note(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        """In the observer's thread: one wake-up for any number of events not yet taken."""
        with self._lock:
            first = not self._names
            self._names.add(name)
        if first:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(self._wake)


class _Handler(FileSystemEventHandler):
    def __init__(self, directory: str, note: Callable[[str], None]) -> None:
        self._directory = directory
        self._note = note

    def dispatch(self, event: FileSystemEvent) -> None:
        if event.event_type in _UNWANTED:
            return
        for path in (event.src_path, event.dest_path):
            text = os.fsdecode(path)
            if text and text != self._directory:
                self._note(os.path.basename(text))
            elif text and event.event_type == "deleted":
                self._note("")  # the directory itself
