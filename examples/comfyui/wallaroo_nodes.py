# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""Two ComfyUI nodes that draw and edit by a running `wallaroo serve`: docs/comfyui.md.

Copy this file into ComfyUI's folder `custom_nodes`. It needs what ComfyUI has itself: torch, numpy and Pillow.
"""

import base64
import io
import json
import urllib.error
import urllib.request
import uuid
from typing import Any

import numpy as np
import torch
from PIL import Image

SERVER = "http://127.0.0.1:8000"
TIMEOUT = 600  # seconds
LARGEST_SEED = 2**31 - 1


def post(server: str, path: str, body: bytes, content_type: str, api_key: str = "") -> torch.Tensor:
    """The pictures of an answer, float32 of shape `(pictures, height, width, 3)` in 0..1, as ComfyUI has them."""
    headers = {"Content-Type": content_type, **({"Authorization": f"Bearer {api_key}"} if api_key else {})}
    request = urllib.request.Request(f"{server.rstrip('/')}{path}", data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            answer = json.load(response)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{server} refused the request ({error.code}): {said_in(error.read())}") from error
    except urllib.error.URLError as error:
        raise ValueError(f"There is no answer from {server} ({error.reason}). Is `wallaroo serve` running?") from error
    return torch.stack([pixels_of(base64.b64decode(entry["b64_json"])) for entry in answer["data"]])


def said_in(content: bytes) -> str:
    """The message of an error as OpenAI's API words it."""
    try:
        return json.loads(content)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")


def pixels_of(content: bytes) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), dtype=np.float32) / 255)


def png_of(pixels: torch.Tensor) -> bytes:
    """Of one picture in 0..1."""
    file = io.BytesIO()
    Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()).save(file, format="PNG")
    return file.getvalue()


def form(fields: dict[str, Any], picture: bytes) -> tuple[bytes, str]:
    """A multipart body with the picture as `image`, and its content type."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="source.png"\r\n'
        "Content-Type: image/png\r\n\r\n".encode()
    )
    return b"".join([*parts, picture, f"\r\n--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


class _Node:
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "Wallaroo"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        required = {
            "prompt": ("STRING", {"multiline": True}),
            "seed": ("INT", {"default": 0, "min": 0, "max": LARGEST_SEED}),
            "guidance_scale": ("FLOAT", {"default": 3.0, "min": 0.0, "max": 20.0, "step": 0.1}),
        }
        optional = {"server": ("STRING", {"default": SERVER}), "api_key": ("STRING", {"default": ""})}
        return {"required": required, "optional": optional}


class WallarooDraw(_Node):
    """A prompt to pictures."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        inputs = super().INPUT_TYPES()
        inputs["required"]["size"] = ("STRING", {"default": "auto"})  # width x height, such as 704x352
        inputs["required"]["n"] = ("INT", {"default": 1, "min": 1, "max": 16})
        return inputs

    def run(
        self,
        prompt: str,
        seed: int,
        guidance_scale: float,
        size: str = "auto",
        n: int = 1,
        server: str = SERVER,
        api_key: str = "",
    ) -> tuple[torch.Tensor]:
        asked = {"prompt": prompt, "seed": seed, "guidance_scale": guidance_scale, "size": size, "n": n}
        body = json.dumps({**asked, "response_format": "b64_json"}).encode()
        return (post(server, "/v1/images/generations", body, "application/json", api_key),)


class WallarooEdit(_Node):
    """A picture and an instruction to the edited picture, for each picture that comes."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        inputs = super().INPUT_TYPES()
        inputs["required"] = {"image": ("IMAGE",), **inputs["required"]}
        return inputs

    def run(
        self,
        image: torch.Tensor,
        prompt: str,
        seed: int,
        guidance_scale: float,
        server: str = SERVER,
        api_key: str = "",
    ) -> tuple[torch.Tensor]:
        fields = {
            "prompt": prompt,
            "seed": seed,
            "guidance_scale": guidance_scale,
            "response_format": "b64_json",
        }
        bodies = (form(fields, png_of(pixels)) for pixels in image)
        edited = [post(server, "/v1/images/edits", body, kind, api_key) for body, kind in bodies]
        return (torch.cat(edited),)


NODE_CLASS_MAPPINGS = {"WallarooDraw": WallarooDraw, "WallarooEdit": WallarooEdit}
NODE_DISPLAY_NAME_MAPPINGS = {"WallarooDraw": "Wallaroo: draw", "WallarooEdit": "Wallaroo: edit"}
