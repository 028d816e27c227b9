"""What one server takes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerLimits:
    """What one server takes on; whatever is beyond is refused before it costs memory.

    Attributes:
        image_bytes: of one image's voxels, uncompressed.
        memory_bytes: of all images that are held or being sent.
        sessions: open at a time.
        idle_s: a session that nobody asks anything of for so long is closed.
        json_bytes: of one request with prompts.
        job_s: the longest computation.
        silent_s: a computation that nobody asks after for so long is given up, and so is an upload that stops.
        upload_s: the longest upload.
        requests: at a time; more are turned away.
    """

    image_bytes: int = 2 << 30
    memory_bytes: int = 8 << 30
    sessions: int = 8
    idle_s: float = 1800.0
    json_bytes: int = 64 << 20
    job_s: float = 900.0
    silent_s: float = 30.0
    upload_s: float = 1800.0
    requests: int = 200

    def to_json(self) -> dict[str, float]:
        """What a client can heed before it sends anything."""
        return {
            "image_bytes": self.image_bytes,
            "sessions": self.sessions,
            "idle_s": self.idle_s,
            "json_bytes": self.json_bytes,
        }
