"""Reading what clients send, never more than the limit."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from volseg.errors import PromptError
from volseg.prompts import PromptSet
from volseg.server.images import HeldImage, ImageHead, ImageStore
from volseg.server.limits import ServerLimits
from volseg.server.refusal import Refusal

if TYPE_CHECKING:
    from starlette.requests import Request

IMAGE_HEADER = "x-volseg-image"
"""Carries an image's shape, affine and type, so that they are checked before the voxels come."""


async def read_json(request: Request, limits: ServerLimits) -> dict[str, Any]:
    """The JSON object of a request."""
    coding = request.headers.get("content-encoding", "identity")
    if coding != "identity":
        raise Refusal(415, "SessionError", f"JSON is taken as it is, not with the content encoding {coding!r:.40}")
    said = request.headers.get("content-length", "0")
    if said.isdigit() and int(said) > limits.json_bytes:
        raise _too_large(limits)
    body = bytearray()
    async for piece in _pieces(request, limits):
        body += piece
        if len(body) > limits.json_bytes:
            raise _too_large(limits)
    return await asyncio.to_thread(parse_object, bytes(body))


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "SessionError", f"the request is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise Refusal(400, "SessionError", f"the request is a JSON object, got {type(data).__name__}")
    return data


def read_prompts(data: Any, image_voxels: int) -> PromptSet:
    """Prompts, whose masks may take no more memory than a few images do.

    Raises:
        PromptError: they are not of the schema, or too large.
    """
    voxels = 0
    for item in _dicts(data, "objects"):
        for prompt in _dicts(item, "prompts"):
            grid = prompt.get("grid")
            shape = grid.get("shape") if prompt.get("type") == "mask" and isinstance(grid, dict) else None
            if isinstance(shape, list) and all(type(size) is int for size in shape):
                voxels += abs(math.prod(shape))
    if voxels > 8 * image_voxels + 1_000_000:
        raise PromptError(f"the masks have {voxels} voxels, many times those of the image; send fewer or smaller ones")
    return PromptSet.from_json(data)


async def receive_image(request: Request, sha256: str, images: ImageStore, limits: ServerLimits) -> None:
    """Takes an image's voxels, and keeps them if they have the hash they came under."""
    coding = request.headers.get("content-encoding", "")
    if coding != "deflate":
        raise Refusal(415, "ImageReadError", f"voxels come with the content encoding deflate, got {coding!r:.40}")
    header = request.headers.get(IMAGE_HEADER)
    if header is None:
        raise Refusal(400, "ImageReadError", f"the header {IMAGE_HEADER} is missing; it has shape, affine_ras, dtype")
    head = ImageHead.from_json(parse_object(header.encode()))
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > head.voxel_bytes + head.voxel_bytes // 100 + 4096:
        raise Refusal(413, "ImageReadError", f"{said} compressed bytes for {head.voxel_bytes} bytes of voxels")
    upload = images.begin(head)
    image = None
    try:
        async for piece in _pieces(request, limits):
            rest = piece
            while rest := upload.unpack(rest):
                await asyncio.sleep(0)  # others' turn: a small piece can hold much
        found = upload.finished()
        if await asyncio.to_thread(_sha256, found) != sha256:
            raise Refusal(422, "ImageReadError", "the image's content does not have the hash it was sent under")
        image = found
    finally:
        images.end(upload, sha256, image)


def _sha256(image: HeldImage) -> str:
    from volseg.data import image_sha256

    return image_sha256(image.tensor(image.head.grid, ""))


async def _pieces(request: Request, limits: ServerLimits) -> AsyncIterator[bytes]:
    stream = request.stream()
    end = time.monotonic() + limits.upload_s
    while True:
        try:
            piece = await asyncio.wait_for(anext(stream), limits.silent_s)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Refusal(408, "ServerError", f"nothing came for {limits.silent_s:g} s") from None
        if time.monotonic() > end:
            raise Refusal(408, "ServerError", f"the request took longer than {limits.upload_s:g} s")
        yield piece


def _dicts(data: Any, key: str) -> list[dict[str, Any]]:
    items = data.get(key) if isinstance(data, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _too_large(limits: ServerLimits) -> Refusal:
    return Refusal(413, "PromptError", f"a request has at most {limits.json_bytes} bytes; send fewer or smaller masks")
