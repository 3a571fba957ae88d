"""What goes wrong at a hub as one line: whose fault it is, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.errors import BenchError, InputError, UnsupportedError

if TYPE_CHECKING:
    from bench.models.hub import Ref


class telling:  # noqa: N801  # used as a statement
    """What goes wrong at the hub as one line that says whose fault it is."""

    def __init__(self, ref: Ref) -> None:
        self.ref = ref

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if error is None or isinstance(error, BenchError) or not isinstance(error, Exception):
            return
        if (said := told(error, self.ref)) is not None:
            raise said from error


def told(error: Exception, ref: Ref) -> BenchError | None:
    """The line for an error of `huggingface_hub` or of the network; None for any other."""
    from huggingface_hub import errors, get_token

    token = "the token has no access" if get_token() else "set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    random = "NAME@random measures a card's shape without its weights"
    if isinstance(error, errors.GatedRepoError):
        return UnsupportedError(
            f"{ref.repo} is gated: accept its licence on its page ({token}); {random}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(
            f"no folder '{ref}' here, and the hub has no model {ref.repo}, or it is private "
            f"({token})"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return InputError(f"{ref.repo} has no revision '{ref.revision}'")
    if isinstance(error, errors.HFValidationError):
        return InputError(f"'{ref}' is not a model name: expected ORG/NAME[@REVISION]")
    if isinstance(error, errors.EntryNotFoundError):
        return UnsupportedError(f"{ref}: the hub lists a file that it does not have")
    if status in (401, 403):
        return UnsupportedError(f"{ref.repo}: the hub refuses access ({status}; {token}); {random}")
    if status == 429:
        return UnsupportedError(f"{ref}: the hub asks us to wait (429); try again in a few minutes")
    if status is not None:
        return UnsupportedError(f"{ref}: the hub answers with status {status}; try again later")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UnsupportedError(f"{ref} is not in the cache, and HF_HUB_OFFLINE is set")
    if type(error).__module__.startswith(("httpx", "httpcore")):
        return UnsupportedError(f"{ref}: the hub cannot be reached: {type(error).__name__} {error}")
    if isinstance(error, OSError | ValueError):
        return UnsupportedError(f"{ref}: {type(error).__name__}: {str(error).splitlines()[0]}")
    return None
