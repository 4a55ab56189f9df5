# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The fields of OpenAI's requests that are served, those that change nothing here, and those that are refused."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from ..engine import MAX_WINDOW, SAMPLING
from ..sizes import read_size

Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Share = Annotated[float, Field(gt=0, le=1)]


class _Request(BaseModel):
    """Unknown fields are refused: a slip in a name would otherwise change nothing, and nobody would know.

    `IGNORED` may have any value. A field of `REFUSED` may have one of the values that mean what is done anyway.
    """

    model_config = ConfigDict(extra="forbid")
    IGNORED: ClassVar[frozenset[str]] = frozenset()
    REFUSED: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _only_what_is_served(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        kept = {name: value for name, value in data.items() if value is not None and name not in cls.IGNORED}
        for name, neutral in cls.REFUSED.items():
            value = kept.pop(name, None)
            if value is not None and value not in neutral:
                allowed = f", or pass {neutral[0]!r}" if neutral else ""
                text = f"`{name}` is not served here, but got {str(value)[:80]!r}. Leave it out{allowed}."
                raise PydanticCustomError("not_served", "{text}", {"text": text, "param": name})
        return kept


# ---------------------------------------------------------------------- conversations


class TextPart(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: Literal["text"]
    text: str


class ImageURL(BaseModel):
    model_config = ConfigDict(extra="ignore")  # `detail`: a picture is always seen whole
    url: str


class ImagePart(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: Literal["image_url"]
    image_url: ImageURL


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Request):
    IGNORED = frozenset({"name", "refusal", "annotations"})
    REFUSED = {"tool_calls": ([],), "function_call": (), "audio": ()}

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[Part], Field(min_length=1)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="ignore")
    include_usage: bool = False


class ChatRequest(_Request):
    IGNORED = frozenset(
        {
            "metadata",
            "parallel_tool_calls",
            "prompt_cache_key",
            "prompt_cache_retention",
            "reasoning_effort",
            "safety_identifier",
            "service_tier",
            "store",
            "top_logprobs",
            "user",
            "verbosity",
        }
    )
    REFUSED = {
        "audio": (),
        "frequency_penalty": (0,),
        "function_call": ("none",),
        "functions": ([],),
        "logit_bias": ({},),
        "logprobs": (False,),
        "modalities": (["text"],),
        "n": (1,),
        "prediction": (),
        "presence_penalty": (0,),
        "response_format": ({"type": "text"},),
        "tool_choice": ("none", "auto"),
        "tools": ([],),
        "web_search_options": (),
    }

    messages: Annotated[list[Message], Field(min_length=1)]
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Share | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Seed | None = None
    stop: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(default=[], max_length=16)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


# ---------------------------------------------------------------------- pictures


class ImageRequest(_Request):
    """Of `images/generations`."""

    IGNORED = frozenset({"input_fidelity", "moderation", "quality", "safety_identifier", "style", "user"})
    REFUSED = {
        "background": ("auto", "opaque"),
        "output_compression": (100, "100"),
        "output_format": ("png",),
        "partial_images": (0, "0"),
        "response_format": ("b64_json",),
        "stream": (False, "false"),
    }

    prompt: Annotated[str, Field(min_length=1)]
    model: str | None = None
    n: Annotated[int, Field(ge=1)] = 1
    size: str = "auto"
    aspect_ratio: str | None = None
    negative_prompt: str = ""
    seed: Seed | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Share | None = None
    do_sample: bool | None = None
    speculative_window: Annotated[int, Field(ge=1, le=MAX_WINDOW)] | None = None

    @field_validator("size")
    @classmethod
    def _width_x_height(cls, value: str) -> str:
        if value != "auto" and read_size(value) is None:
            raise ValueError(
                f"`size` must be WIDTHxHEIGHT in pixels, such as 512x768, or auto, but got {value[:40]!r}."
            )
        return value

    @property
    def height_and_width(self) -> tuple[int, int] | tuple[None, None]:
        """In pixels, where the size was told."""
        return read_size(self.size) or (None, None)

    @property
    def sampling(self) -> dict[str, Any]:
        """What `ImageJob.sampling` gets; a temperature of 0 means the likeliest code, as in conversations."""
        given = {name: value for name in SAMPLING if (value := getattr(self, name, None)) is not None}
        if given.get("temperature") == 0:
            del given["temperature"]
            given["do_sample"] = False
        return given


class EditRequest(ImageRequest):
    """Of `images/edits`, beside its files."""

    image_guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    original_size: bool = False
    keep_source: bool = False


__all__ = ["ChatRequest", "EditRequest", "ImagePart", "ImageRequest", "Message", "TextPart"]
