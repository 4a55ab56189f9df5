# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""ImageNet-1K as pictures to draw: a class name in a template, in English and in Chinese (paper section 4.2)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .drops import DroppedSample
from .layouts import notes_of, tasks_only
from .pictures import PictureFinder
from .rows import PARQUET_ENDINGS, ParquetRows, field, find_files, open_rows
from .tars import PICTURES, TAR_ENDINGS, TarSamples

LANGUAGES = {"en": "English", "zh": "Chinese"}
# Around the class name; which one a sample gets follows from its seed.
TEMPLATES = {
    "en": (
        "{name}",
        "a photo of {name}",
        "a picture that shows {name}",
        "Draw {name}.",
        "Generate an image of {name}.",
        "an image of {name}, taken from life",
    ),
    "zh": ("{name}", "一张{name}的照片", "画{name}", "一幅展示{name}的图片", "生成{name}的图像", "真实拍摄的{name}"),
}


class ImageNet(Sequence[dict[str, Any]]):
    """ImageNet-1K: Parquet with `image` and `label`, or webdataset tars with `{key}.jpg` and `{key}.cls`.

    A sample's `prompt` is a list, of which `MixtureDataset` draws one by the sample's seed.

    Args:
        path: Parquet files or tars; or a data set of the Hub, see `open_rows`.
        classes: file of the English names, one a line in the order of the labels, or JSON (a list, or label -> name);
            by default the names that the label column itself has. Of a name such as "tench, Tinca tinca" the first is
            taken.
        classes_zh: the same in Chinese.
        languages: `["en"]`, `["zh"]` or both; by default both where `classes_zh` is given.
        templates: language -> templates with `{name}`, in place of those here.
    """

    def __init__(
        self,
        task: str,
        path: Any,
        *,
        classes: str | None = None,
        classes_zh: str | None = None,
        languages: Sequence[str] | None = None,
        templates: Mapping[str, Sequence[str]] | None = None,
        cache_dir: str | None = None,
    ):
        tasks_only("imagenet", task, "generate")
        self.rows: ParquetRows | None = None
        if isinstance(path, Mapping) or _is_parquet(path):
            rows = open_rows(path, cache_dir=cache_dir)
            assert isinstance(rows, ParquetRows)
            self.rows = rows
            field(dict.fromkeys(rows.features, 0), "image", rows.name)
            field(dict.fromkeys(rows.features, 0), "label", rows.name)
        else:
            self.members = TarSamples(path, {"image": PICTURES, "label": ("cls",)})
        self.finder = PictureFinder()
        languages = list(languages) if languages else ["en", "zh"] if classes_zh else ["en"]
        self.templates = {**TEMPLATES, **(templates or {})}
        self._check_languages(languages)
        self.names = {language: self._names(language, classes, classes_zh) for language in languages}

    def _check_languages(self, languages: Sequence[str]) -> None:
        unknown = sorted({*languages, *self.templates} - set(TEMPLATES))
        if unknown:
            raise ValueError(
                f"`languages` and `templates` may be of {', '.join(TEMPLATES)}, but got {', '.join(unknown)}."
            )
        for language in languages:
            wrong = [template for template in self.templates[language] if "{name}" not in str(template)]
            if wrong or isinstance(self.templates[language], str) or not self.templates[language]:
                raise ValueError(
                    f"`templates` of {language!r} must be a list of texts with {{name}}, but has {wrong or 'none'}."
                )

    def _names(self, language: str, classes: str | None, classes_zh: str | None) -> Mapping[int, str]:
        file, option = (classes, "classes") if language == "en" else (classes_zh, "classes_zh")
        if file is not None:
            return read_names(file, option)
        names = getattr(self.rows.features["label"], "names", None) if self.rows is not None else None
        if language == "en" and names:
            return dict(enumerate(names))
        raise ValueError(
            f"`{option}` must be a file with the names of the classes in {LANGUAGES[language]}, one a line in the "
            "order of the labels: the data set itself has none, nor has this package."
        )

    def __len__(self) -> int:
        return len(self.rows if self.rows is not None else self.members)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        place = self.name_of(index)
        if self.rows is not None:
            row = self.rows[index]
            image, label = self.finder.find(field(row, "image", place), place), field(row, "label", place)
        else:
            parts = self.members[index]
            image, label = parts["image"], parts["label"].read().decode("latin-1").strip()
        try:
            number = int(label)
        except (TypeError, ValueError, OverflowError) as error:
            raise DroppedSample("mismatch", f"{place} has the label {label!r}, which is no number.") from error
        if isinstance(label, float) and number != label:
            raise DroppedSample("mismatch", f"{place} has the label {label!r}, which is no whole number.")
        prompts = [
            template.format(name=names[number].split(",")[0].strip())
            for language, names in self.names.items()
            if number in names
            for template in self.templates[language]
        ]
        if not prompts:
            raise DroppedSample("mismatch", f"{place} has the label {number}, which has no name.")
        return {"task": "generate", "prompt": prompts, "image": image}

    def name_of(self, index: int) -> str:
        return self.rows.name_of(index) if self.rows is not None else self.members.name_of(index)

    @property
    def notes(self) -> list[str]:
        return [] if self.rows is not None else notes_of(self.members)


def _is_parquet(path: Any) -> bool:
    return find_files(path, (*PARQUET_ENDINGS, *TAR_ENDINGS))[0].suffix.lower() in PARQUET_ENDINGS


def read_names(file: str, option: str = "classes") -> dict[int, str]:
    """Label -> name: of lines, of a JSON list, or of a JSON object whose values are names or lists that end in one."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"`{option}` must be a file with a name a line, but there is none at {file!r}.")
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() != ".json":
        return dict(enumerate(line.strip() for line in text.splitlines() if line.strip()))
    values = json.loads(text)
    pairs = values.items() if isinstance(values, dict) else enumerate(values)
    try:
        return {int(label): str(name[-1] if isinstance(name, list) else name) for label, name in pairs}
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{option}` {file!r} must be a list of names, or label -> name ({error}).") from error


__all__ = ["ImageNet", "read_names"]
