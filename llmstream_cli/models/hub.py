"""Models on the Hugging Face Hub: from a `HubModel` to files on this machine."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

from llmstream_cli.errors import ModelNotFoundError, NoRoomError, UnreachableError, did_you_mean
from llmstream_cli.files import exists, is_file
from llmstream_cli.machine import free_disk
from llmstream_cli.models.download import download
from llmstream_cli.models.hub_api import HubClient, Listing, RepoFile, is_offline
from llmstream_cli.models.hub_cache import RepoFolder, cached_files, sweep_partials
from llmstream_cli.models.progress import Progress
from llmstream_cli.models.reference import HubModel, choose, is_model, part_names, quant_of
from llmstream_cli.models.sizes import human_size


def fetch(
    model: HubModel, progress: Progress, *, max_bytes_in_memory: int | None = None
) -> tuple[Path, ...]:
    """Download what is missing of a model, or another file, and return its files, in order.

    The Hub is asked which commit the revision means now, and only what the cache lacks of it is
    downloaded. Where the Hub does not answer, what is in the cache serves.

    Raises:
        ModelNotFoundError: there is no such repository, revision, file or quantization.
        NoRoomError: the files together fit neither the disk nor `max_bytes_in_memory`.
        UnreachableError: the Hub does not answer, or must not be asked, and the cache lacks it.
        DownloadError: the Hub refuses, or sent something else than it announced.
    """
    try:
        if is_offline():
            raise UnreachableError("HF_HUB_OFFLINE is set")
        client = HubClient()
        listing = client.list_files(model)
    except UnreachableError as error:
        found = cached_files(model, any_revision=True)
        if found is None:
            way = "unset it" if is_offline() else "connect"
            raise UnreachableError(
                f"{model} is not in the cache, and {error}; {way}, "
                "or name a file with --model FILE.gguf"
            ) from error
        if not is_offline():
            progress.note(f"{error}; taking {found[0].name} from the cache")
        return found
    files = _parts(_pick(model, listing), listing)
    folder = RepoFolder.of(model.repo)
    missing = [file for file in files if not is_file(folder.pointer(listing.commit, file.path))]
    fresh = [file for file in missing if not exists(folder.blob(file.etag))]
    if fresh:
        _check_memory(model, files, listing, max_bytes_in_memory)
        sweep_partials()
        _check_disk(model, fresh, folder, listing)
    for file in missing:
        with client.explained(HubModel(model.repo, file=file.path, revision=model.revision)):
            download(client, listing, file, folder, progress)
    with contextlib.suppress(OSError):  # a cache that can only be read serves as well
        folder.set_commit(model.revision, listing.commit)
    return tuple(folder.pointer(listing.commit, file.path) for file in files)


# ---- which files ----------------------------------------------------------------------------


def _pick(model: HubModel, listing: Listing) -> str:
    """Choose the file that the model is, or say what there is instead."""
    names = dict.fromkeys(quant_of(file) or file for file in listing.files if is_model(file))
    offer = f"it has {', '.join(names)}" if names else ""
    if model.file in listing.files:
        return part_names(model.file)[0]
    if model.file is not None:
        hint = did_you_mean(model.file, listing.files, offer)
        raise ModelNotFoundError(f"{model.repo} has no file {model.file}; {hint}".rstrip("; "))
    chosen = choose(listing.files, model.quant)
    if chosen is not None:
        return chosen
    if not names:
        raise ModelNotFoundError(
            f"{model.repo} has no GGUF file; look for a repository with GGUF in its name"
        )
    raise ModelNotFoundError(f"{model.repo} has no quantization {model.quant}; {offer}")


def _parts(first: str, listing: Listing) -> tuple[RepoFile, ...]:
    for name in part_names(first):
        if name not in listing.files:
            raise ModelNotFoundError(f"{listing.repo} lacks {name}, a part of the model")
    return tuple(listing.files[name] for name in part_names(first))


# ---- whether there is room ------------------------------------------------------------------


def _check_memory(
    model: HubModel, files: Sequence[RepoFile], listing: Listing, max_bytes: int | None
) -> None:
    size = sum(file.size for file in files)
    if max_bytes is not None and size > max_bytes:
        raise NoRoomError(
            f"{model} has {human_size(size)}, more than the {human_size(max_bytes)} of memory "
            f"for it{_smaller(listing, max_bytes)}"
        )


def _check_disk(
    model: HubModel, fresh: Sequence[RepoFile], folder: RepoFolder, listing: Listing
) -> None:
    partials = [folder.partial(file.etag) for file in fresh]
    needed = sum(file.size for file in fresh)
    needed -= sum(partial.stat().st_size for partial in partials if exists(partial))
    free = free_disk(folder.path)
    if needed > free:
        raise NoRoomError(
            f"{model} needs {human_size(needed)} more and {folder.path.parent} has "
            f"{human_size(free)} free: make room, or set HF_HOME to a folder elsewhere"
            f"{_smaller(listing, free)}"
        )


def _smaller(listing: Listing, max_bytes: int) -> str:
    """Name the largest model of the repository that fits, in the words of `--model`."""
    sizes = {
        file: sum(listing.files[part].size for part in part_names(file))
        for file in listing.files
        if is_model(file) and listing.files.keys() >= {*part_names(file)}
    }
    fitting = [file for file, size in sizes.items() if size <= max_bytes]
    if not fitting:
        return ""
    best = max(fitting, key=lambda file: sizes[file])
    quant = quant_of(best)
    by_quant = quant is not None and choose(listing.files, quant) == best
    name = HubModel(listing.repo, quant) if by_quant else HubModel(listing.repo, file=best)
    return f"; {name} would fit, with {human_size(sizes[best])}"
