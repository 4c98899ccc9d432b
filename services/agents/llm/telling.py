"""Passes pieces of text on to a caller, of one response and no other."""

from collections.abc import Callable


class CallerError(Exception):
    """What the caller's own function raised; it goes back to the caller as it is."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


class Telling:
    """Tells pieces until a response fails after some were told; then says so once and tells nothing more."""

    __slots__ = ("_on_restart", "_on_text", "_told")

    def __init__(self, on_text: Callable[[str], None] | None, on_restart: Callable[[], None] | None) -> None:
        self._on_text = on_text
        self._on_restart = on_restart
        self._told = False

    @property
    def wanted(self) -> bool:
        """Whether pieces are (still) told."""
        return self._on_text is not None

    def piece(self, text: str) -> None:
        """Tells a piece of the response at hand. Raises CallerError."""
        if self._on_text is not None and text:
            self._told = True
            try:
                self._on_text(text)
            except BaseException as error:
                raise CallerError(error) from error

    def failed(self) -> None:
        """The response at hand came to nothing. Raises CallerError."""
        if self._told:
            self._told = False
            self._on_text = None
            if self._on_restart is not None:
                try:
                    self._on_restart()
                except BaseException as error:
                    raise CallerError(error) from error
