"""Why an image could not be had.

ImageError
├── ImageUrlForbidden   its scheme, port, host or address may not be fetched
├── ImageUnreachable    its host gave no image
│   └── ImageNotReached this time: no name, no connection, no answer in time, trouble of its host
├── ImageTooLarge       more pixels, bytes or memory than allowed
├── ImageUndecodable    damaged, no image, of another format, or its decoder hung or crashed
└── DecoderStopped      the service is ending

TooManyFetched          there is no room: the error of the whole request
"""

from __future__ import annotations

from frontend.errors import ServiceError


class ImageError(ServiceError):
    """Root of the tree."""


class ImageUrlForbidden(ImageError):
    """The URL's scheme, port, host or address is not allowed."""


class ImageUnreachable(ImageError):
    """The URL could not be fetched."""


class ImageNotReached(ImageUnreachable):
    """The URL could not be fetched this time; it may be, later."""


class ImageTooLarge(ImageError):
    """The image has more pixels or bytes than allowed."""


class ImageUndecodable(ImageError):
    """The bytes are corrupt, truncated, no image, or of a format that is not allowed."""


class DecoderStopped(ImageError):
    """The pool of decode workers has been left."""


class TooManyFetched(ServiceError):
    """There is no room for what is fetched."""


def too_large(max_bytes: int) -> ImageTooLarge:
    """Say that an image is above the byte limit, in the same words everywhere."""
    return ImageTooLarge(f"the image has more than the {max_bytes} bytes allowed")
