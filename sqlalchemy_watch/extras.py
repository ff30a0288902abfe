"""Optional dependencies: where one is missing, the error names the extra that brings it."""

from __future__ import annotations

from types import TracebackType


class needs:
    """Surrounds the imports of what an extra brings::

        with needs("webhooks", "httpcore", __name__):
            import httpcore

    :param extra: the extra of this library.
    :param package: the package that it brings, by the name under which it is imported.
    :param module: the module that needs it.
    :raises ModuleNotFoundError: where the package is not installed, with the command that installs it.
    """

    def __init__(self, extra: str, package: str, module: str) -> None:
        self._extra, self._package, self._module = extra, package, module

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, exc_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] == self._package:
            raise ModuleNotFoundError(
                f'{self._module} needs {self._package}: pip install "sqlalchemy-watch[{self._extra}]"', name=error.name
            ) from error
