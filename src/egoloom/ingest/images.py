"""Single pictures, as files or inside a tar archive that is read in place and never unpacked."""

import os
import re
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from egoloom.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_IMAGE_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class ArchivedImage:
    """A picture inside an uncompressed tar archive: where its bytes lie."""

    archive: Path
    name: str
    offset: int
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"


Image = Path | ArchivedImage


def image_bytes(image: Image) -> np.ndarray:
    """Returns the encoded bytes of a picture.

    Raises:
        UserError: If they cannot be read.
    """
    try:
        if isinstance(image, Path):
            return np.fromfile(image, np.uint8)
        with image.archive.open("rb") as handle:
            handle.seek(image.offset)
            return np.frombuffer(handle.read(image.num_bytes), np.uint8)
    except OSError as error:
        raise UserError(f"Cannot read the image {image}: {error.strerror}") from error


def read_image(image: Image, *, grey: bool = False) -> np.ndarray:
    """Reads a picture as uint8 ``[H, W, 3]`` BGR or ``[H, W]`` grey.

    Raises:
        UserError: If it is missing or not an image.
    """
    content = image_bytes(image)
    picture = None
    if len(content):
        try:
            picture = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR)
        except cv2.error as error:
            raise UserError(f"{image} is not an image that can be decoded: {error}") from error
    if picture is None:
        raise UserError(f"{image} is not an image that can be decoded", fix="replace the file")
    return picture


def images_in_folder(folder: Path) -> list[Path]:
    """Returns the pictures of a folder."""
    with os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES)]


def images_in_archive(archive: Path) -> list[ArchivedImage]:
    """Returns the pictures of a tar archive without unpacking it, whatever paths its members claim.

    Raises:
        UserError: If it is damaged or compressed.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            members = [
                ArchivedImage(archive, member.name, member.offset_data, member.size)
                for member in tar
                if member.isreg() and member.name.lower().endswith(IMAGE_SUFFIXES)
            ]
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise UserError(
            f"Cannot read the archive {archive}: {error}", allowed="an uncompressed tar", fix="copy or unpack it again"
        ) from error
    if too_large := next((member for member in members if member.num_bytes > MAX_IMAGE_BYTES), None):
        raise UserError(f"{too_large} claims {too_large.num_bytes} bytes", allowed=f"at most {MAX_IMAGE_BYTES}")
    return members


def by_number(images: Iterable[Image]) -> dict[int, Image]:
    """Returns pictures by the last number in their names, in its order.

    Raises:
        UserError: If a name has no number, or a number occurs twice.
    """
    numbered: dict[int, Image] = {}
    for image in images:
        name = image.stem if isinstance(image, Path) else Path(image.name).stem
        digits = re.findall(r"\d+", name)
        if not digits:
            raise UserError(f"{image} has no frame number in its name", allowed="for instance frame_0000000001.jpg")
        other = numbered.setdefault(int(digits[-1]), image)
        if other is not image:
            raise UserError(f"{image} and {other} have the same frame number")
    return dict(sorted(numbered.items()))
