# Copyright 2026 The transformers-wallaroo authors. Licensed under the Apache License, Version 2.0.
"""The words and phrasings of the shapes world, as data; `language.py` says how they are used.

There is a space between any two words, in Chinese too, and before punctuation.
"""

Words = dict[str, dict[str, str]]
Phrases = dict[str, tuple[str, ...]]

ENGLISH_WORDS: Words = {
    "shape": {"circle": "circle", "square": "square", "triangle": "triangle", "star": "star", "any": "shape"},
    "shapes": {"circle": "circles", "square": "squares", "triangle": "triangles", "star": "stars", "any": "shapes"},
    "color": {name: name for name in ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")},
    "place": {name: name for name in ("top left", "top right", "bottom left", "bottom right")},
    "corner": {
        name: f"in the {name} corner" for name in ("top left", "top right", "bottom left", "bottom right")
    },
    "relation": {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"},
    "step": {"left": "to the left", "right": "to the right", "above": "up", "below": "down"},
    "number": {"0": "zero", "1": "one", "2": "two", "3": "three", "4": "four"},
    "presence": {"yes": "yes", "no": "no"},
    "truth": {"yes": "yes", "no": "no"},
}
ENGLISH_FORMS: dict[str, str] = {
    "colored": "{color} {noun}",
    "one": "a {name}",
    "the": "the {name}",
    "count": "{number} {names}",
    "beside": "{relation} {other}",
    "comma": " , ",
    "and": "{first} and {last}",
    "on": "{text} on a {color} background",
    "background": "the background",
    "please": "please {text}",
}
ENGLISH_PHRASES: Phrases = {
    # ---- generate: what stands around a caption, and the captions
    "caption": (
        "{text}",
        "a picture of {text}",
        "an image of {text}",
        "a picture with {text}",
        "draw {text}",
        "show {text}",
    ),
    "related caption": (
        "{text}",
        "a picture of {text}",
        "an image of {text}",
        "a picture with {text}",
        "draw {text}",
        "show {text}",
    ),
    "one": ("{a}",),
    "two": ("{a} and {b}",),
    "relation": ("{a} {relation} {b}",),
    "place": ("{a} in the {place}",),
    "two places": ("{a} in the {place} and {b} in the {other_place}",),
    # ---- edit
    "add": ("add {a} {where}", "put {a} {where}", "draw {a} {where}", "place {a} {where}"),
    "remove": ("remove {x}", "delete {x}", "erase {x}", "take away {x}", "get rid of {x}"),
    "replace": ("replace {x} with {a}", "change {x} into {a}", "swap {x} for {a}", "turn {x} into {a}"),
    "adjust": (
        "make {x} {color}",
        "turn {x} {color}",
        "paint {x} {color}",
        "color {x} {color}",
        "change the color of {x} to {color}",
    ),
    "background": (
        "make the background {color}",
        "turn the background {color}",
        "paint the background {color}",
        "change the background to {color}",
        "use a {color} background",
    ),
    "extract": ("extract {x}", "keep only {x}", "cut out {x}", "isolate {x}"),
    "outlined": (
        "turn it into a line drawing",
        "make it a line drawing",
        "draw only the outlines",
        "show the shapes as outlines",
        "make the shapes hollow",
    ),
    "filled": (
        "fill the shapes in",
        "fill in the shapes",
        "fill the outlines with color",
        "color in the outlines",
        "make the shapes solid",
    ),
    "compose": (
        "{one} and {two}",
        "{one} , then {two}",
        "{one} and then {two}",
        "first {one} , then {two}",
    ),
    "action": (
        "move {x} one step {step}",
        "shift {x} one step {step}",
        "push {x} one step {step}",
        "move {x} {step} by one step",
    ),
    # ---- understand
    "presence": (
        "is there {a} ?",
        "is there {a} in the picture ?",
        "does the picture show {a} ?",
        "do you see {a} ?",
        "can you see {a} in the image ?",
    ),
    "counting": (
        "how many {names} are there ?",
        "how many {names} do you see ?",
        "how many {names} are in the picture ?",
        "how many {names} does the image show ?",
        "count the {names}",
    ),
    "color": (
        "what color is {x} ?",
        "what colour is {x} ?",
        "which color is {x} ?",
        "what is the color of {x} ?",
        "tell me the color of {x}",
    ),
    "where": (
        "where is {x} ?",
        "where do you see {x} ?",
        "where in the picture is {x} ?",
        "what is the place of {x} ?",
        "tell me where {x} is",
    ),
    "related": (
        "is {x} {beside} ?",
        "in the picture , is {x} {beside} ?",
        "do you see {x} {beside} ?",
        "does the picture show {x} {beside} ?",
    ),
    "more": (
        "are there more {first} than {second} ?",
        "are there more {first} than {second} in the picture ?",
        "do you see more {first} than {second} ?",
        "does the picture show more {first} than {second} ?",
    ),
    "which": (
        "which are more , {first} or {second} ?",
        "which are there more of , {first} or {second} ?",
        "are there more {first} or {second} ?",
        "do you see more {first} or {second} ?",
    ),
    "description": (
        "describe the picture",
        "describe the image",
        "what is in the picture ?",
        "what does the image show ?",
        "what do you see ?",
        "tell me what is in the picture",
    ),
}

CHINESE_WORDS: Words = {
    "shape": {"circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "星形", "any": "图形"},
    "shapes": {"circle": "圆形", "square": "正方形", "triangle": "三角形", "star": "星形", "any": "图形"},
    "color": {
        "red": "红色",
        "green": "绿色",
        "blue": "蓝色",
        "yellow": "黄色",
        "purple": "紫色",
        "orange": "橙色",
        "white": "白色",
        "black": "黑色",
    },
    "place": {"top left": "左上方", "top right": "右上方", "bottom left": "左下方", "bottom right": "右下方"},
    "corner": {"top left": "左上角", "top right": "右上角", "bottom left": "左下角", "bottom right": "右下角"},
    "relation": {"left": "左边", "right": "右边", "above": "上面", "below": "下面"},
    "step": {"left": "向左", "right": "向右", "above": "向上", "below": "向下"},
    "number": {"0": "零个", "1": "一个", "2": "两个", "3": "三个", "4": "四个"},
    "presence": {"yes": "有", "no": "没有"},
    "truth": {"yes": "是", "no": "不是"},
}
CHINESE_FORMS: dict[str, str] = {
    "colored": "{color} 的 {noun}",
    "one": "一个 {name}",
    "the": "{name}",
    "count": "{number} {names}",
    "beside": "{other} 的 {relation}",
    "comma": " 、 ",
    "and": "{first} 和 {last}",
    "on": "{text} ， {color} 背景",
    "background": "背景",
    "please": "请 {text}",
}
CHINESE_PHRASES: Phrases = {
    # ---- generate
    "caption": (
        "{text}",
        "画 {text}",
        "图片 ： {text}",
        "图中 有 {text}",
        "图片 里 有 {text}",
        "请 画 {text}",
    ),
    "related caption": (
        "{text}",
        "图中 ， {text}",
        "图片 里 ， {text}",
        "图片 ： {text}",
    ),
    "one": ("{a}",),
    "two": ("{a} 和 {b}",),
    "relation": ("{a} 在 {b} 的 {relation}", "{b} 的 {relation} 有 {a}"),
    "place": ("{place} 有 {a}", "{a} 在 {place}"),
    "two places": ("{place} 有 {a} ， {other_place} 有 {b}", "{a} 在 {place} ， {b} 在 {other_place}"),
    # ---- edit
    "add": ("在 {where} 添加 {a}", "在 {where} 加上 {a}", "在 {where} 画 {a}", "在 {where} 放 {a}"),
    "remove": ("移除 {x}", "删除 {x}", "去掉 {x}", "把 {x} 删除", "把 {x} 去掉"),
    "replace": ("把 {x} 换成 {a}", "把 {x} 变成 {a}", "把 {x} 替换 成 {a}", "用 {a} 替换 {x}"),
    "adjust": (
        "把 {x} 变成 {color}",
        "把 {x} 改成 {color}",
        "把 {x} 涂成 {color}",
        "把 {x} 的 颜色 改成 {color}",
        "把 {x} 的 颜色 换成 {color}",
    ),
    "background": (
        "把 背景 变成 {color}",
        "把 背景 改成 {color}",
        "把 背景 换成 {color}",
        "把 背景 涂成 {color}",
        "使用 {color} 背景",
    ),
    "extract": ("提取 {x}", "只 保留 {x}", "抠出 {x}", "把 {x} 提取 出来", "把 {x} 抠出 来"),
    "outlined": (
        "把 图片 变成 线条画",
        "把 图片 改成 线条画",
        "只 画 轮廓",
        "把 图形 变成 空心",
        "只 保留 图形 的 轮廓",
    ),
    "filled": (
        "把 图形 填满",
        "把 图形 变成 实心",
        "把 轮廓 填满 颜色",
        "用 颜色 填满 图形",
    ),
    "compose": (
        "{one} ， 然后 {two}",
        "{one} ， 再 {two}",
        "{one} ， 并 {two}",
        "先 {one} ， 再 {two}",
    ),
    "action": (
        "把 {x} {step} 移动 一格",
        "把 {x} {step} 移 一格",
        "把 {x} {step} 推 一格",
        "{x} {step} 移动 一格",
    ),
    # ---- understand
    "presence": (
        "图中 有 {name} 吗 ？",
        "有 {name} 吗 ？",
        "图片 里 有 {name} 吗 ？",
        "图中 有 没有 {name} ？",
        "图片 里 有 没有 {name} ？",
    ),
    "counting": (
        "图中 有 几个 {names} ？",
        "有 几个 {names} ？",
        "图片 里 有 几个 {names} ？",
        "一共 有 几个 {names} ？",
        "{names} 有 几个 ？",
    ),
    "color": (
        "{x} 是 什么 颜色 ？",
        "图中 {x} 是 什么 颜色 ？",
        "{x} 的 颜色 是 什么 ？",
        "说出 {x} 的 颜色",
    ),
    "where": (
        "{x} 在 哪里 ？",
        "图中 {x} 在 哪里 ？",
        "{x} 在 什么 位置 ？",
        "{x} 的 位置 在 哪里 ？",
        "说出 {x} 的 位置",
    ),
    "related": (
        "{x} 在 {beside} 吗 ？",
        "图中 {x} 在 {beside} 吗 ？",
        "{x} 是 在 {beside} 吗 ？",
        "{x} 是 不是 在 {beside} ？",
    ),
    "more": (
        "{first} 比 {second} 多 吗 ？",
        "图中 {first} 比 {second} 多 吗 ？",
        "图片 里 {first} 比 {second} 多 吗 ？",
        "{first} 是 不是 比 {second} 多 ？",
    ),
    "which": (
        "{first} 和 {second} 哪个 更 多 ？",
        "图中 {first} 和 {second} 哪个 更 多 ？",
        "{first} 多 还是 {second} 多 ？",
        "哪个 更 多 ， {first} 还是 {second} ？",
    ),
    "description": (
        "描述 图片",
        "描述 图中 的 图形",
        "图中 有 什么 ？",
        "图片 里 有 什么 ？",
        "说出 图中 有 什么",
    ),
}
