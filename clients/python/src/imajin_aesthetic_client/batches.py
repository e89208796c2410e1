"""Any number of images, cut into requests that the service takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from imajin_aesthetic_client.images import ImageLike, file_bytes, is_address

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from imajin_aesthetic_client.answers import Limits

_OTHER_BYTES: Final = 2**17  # of a body: its prompt and its punctuation


def batches(images: Iterable[ImageLike], limits: Limits) -> Iterator[list[str | bytes]]:
    """Yield the images of one request after the other; a file is read when its request is due.

    Raises:
        OSError: a file that cannot be read.
        TypeError: no image.
    """
    batch: list[str | bytes] = []
    batch_bytes = _OTHER_BYTES
    for image in images:
        item = image if is_address(image) else file_bytes(image)
        item_bytes = len(item) * 4 // 3 + 100
        is_full = len(batch) == limits.max_candidates or batch_bytes + item_bytes > limits.max_body_bytes
        if batch and is_full:
            yield batch
            batch, batch_bytes = [], _OTHER_BYTES
        batch.append(item)
        batch_bytes += item_bytes
    if batch:
        yield batch
