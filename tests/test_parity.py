"""The converted model against the released programs' numbers, through the public interface.

Each test names the tolerance it grants (the fixtures' README suggests them) and the worst difference seen, on
transformers 5.17.0 and 5.23.0 with torch 2.13.0 on a CPU.
"""

import numpy as np
import pytest
import torch

from transformers_wallaroo import WallarooDataCollator

from reference import DECODED, FEATURES, GUIDED_LOGITS, LOGITS, LOSSES, assert_close, case, images, record_forwards

LAYOUT = {"training": "training", "eval": "evaluation"}
GENERATIONS = [
    (name, run)
    for name in ("t2i_gen_training", "t2i_gen_eval", "edit_gen_training", "edit_gen_eval")
    for run in ("g1", "g3_corrected")
]


def task_of(name: str) -> str:
    return "edit" if name.startswith("edit") else "generate"


def generation_inputs(processor, name, info):
    task = task_of(name)
    source = {"images": images(info["source_image"])} if task == "edit" else {}
    return processor(
        text=info["prompt"],
        task=task,
        height=info["height"],
        width=info["width"],
        template=processor.templates[task][info["template_language"]][info["template_index"]],
        layout=LAYOUT[info["layout"]],
        return_tensors="pt",
        **source,
    )


def positions_of(model, batch, prefix=""):
    grid = batch.get(f"{prefix}image_grid_thw")
    ids, types = batch[f"{prefix}input_ids"], batch[f"{prefix}mm_token_type_ids"]
    return model.model.get_rope_index(ids, types, image_grid_thw=grid, attention_mask=batch[f"{prefix}attention_mask"])[
        0
    ]


def test_vq(model, processor):
    """Codes exact; latents 0, codebook 6e-8, pixels 4.6e-6."""
    info, tensors = case("vq")
    pixels, grid = processor.image_processor.preprocess_cells(
        [images(info["image"])], [(info["height"], info["width"])]
    )
    assert_close(torch.from_numpy(pixels), tensors["pixel_values"], 0)
    [codes], [latents] = model.model.encode_images(torch.from_numpy(pixels), torch.from_numpy(grid))
    assert codes.tolist() == info["codes"]
    assert_close(latents, tensors["latents"], FEATURES)
    assert_close(model.model.vq_model.embed_codes(codes), tensors["codebook_entries"], FEATURES)
    decoded = model.model.vq_model.decode(codes.view(1, *grid[0]))
    assert_close(decoded, tensors["decoded"], DECODED)


def test_understand(model, processor):
    """Ids, positions and answer exact; pixels 0, ViT 2.4e-7, logits 8e-6."""
    info, tensors = case("understand")
    inputs = processor(text=info["question"], images=images(info["image"]), task="understand", return_tensors="pt")
    assert inputs["input_ids"].tolist() == info["input_ids"]
    assert inputs["image_grid_thw"].tolist() == info["image_grid_thw"]
    assert positions_of(model, inputs).tolist() == info["position_ids"]
    assert_close(inputs["pixel_values"], tensors["pixel_values"], 1e-6)
    with torch.no_grad():
        [features] = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
        assert_close(features, tensors["image_embeds"], FEATURES)
        assert_close(model(**inputs).logits[:, -1], tensors["logits_last"], LOGITS)
    new_tokens = len(info["generated_ids"][0])
    out = model.generate(
        **inputs, task="understand", max_new_tokens=new_tokens, return_dict_in_generate=True, output_logits=True
    )
    prompt_length = inputs["input_ids"].shape[1]
    assert out.sequences[:, :prompt_length].tolist() == info["input_ids"]
    assert out.sequences[:, prompt_length:].tolist() == info["generated_ids"]
    assert_close(torch.cat(out.logits), tensors["step_logits"], LOGITS)


def test_understand_loss(model, processor):
    """Two turns with a picture each: ids, labels and positions exact, loss 1e-6."""
    info, tensors = case("understand_loss")
    sample = {
        "task": "understand",
        "conversations": info["conversations"],
        "images": [images(name) for name in info["images"]],
    }
    batch = WallarooDataCollator(processor)([sample])
    length = info["length"]
    assert batch["input_ids"].tolist() == [row[:length] for row in info["input_ids"]]
    assert batch["labels"].tolist() == [row[:length] for row in info["labels"]]
    expected = torch.tensor(info["position_ids"])[..., :length]
    assert torch.equal(positions_of(model, batch), expected)
    out = model(**batch)
    assert list(out.losses) == ["understand_text"]
    assert_close(out.loss, tensors["loss"].squeeze(), LOSSES)


@pytest.mark.parametrize("name", ["t2i_loss", "edit_loss", "edit_loss_masked"])
def test_image_loss(model, processor, name):
    """Ids, positions, text labels and codes exact; hidden states 4.1e-6, logits 1.2e-5, losses 2e-6."""
    info, tensors = case(name)
    task = task_of(name)
    samples = []
    for sample in info["samples"]:
        template = processor.templates[task][sample["language"]][sample["template_index"]]
        samples.append({"task": task, "image": images(sample["target_image"]), "template": template})
        samples[-1].update({key: sample[key] for key in ("prompt", "height", "width")})
        if task == "edit":
            cells = len(sample["target_codes"])
            samples[-1]["source_image"] = images(sample["source_image"])
            samples[-1]["source_mask"] = sample.get("latent_mask", [False] * cells)
    batch = WallarooDataCollator(processor, unconditional_probability=0.0)(samples)
    length = batch["input_ids"].shape[1]
    assert length == max(sample["length"] for sample in info["samples"])
    assert batch["input_ids"].tolist() == [row[:length] for row in info["input_ids"]]
    assert batch["attention_mask"].tolist() == [row[:length] for row in info["attention_mask"]]
    text_labels = torch.tensor(info["text_labels"])[:, :length]
    image_labels = torch.tensor(info["image_labels"])[:, :length]
    assert torch.equal(torch.where(image_labels == -100, batch["labels"], -100), text_labels)
    assert torch.equal(positions_of(model, batch), torch.tensor(info["position_ids"])[..., :length])

    out = model(**batch, output_hidden_states=True)
    kept = batch["attention_mask"].bool()
    hidden = out.hidden_states[-1]
    if "last_hidden_state" in tensors:
        assert_close(hidden[kept], tensors["last_hidden_state"][:, :length][kept], LOGITS)
    assert_close(out.losses[f"{task}_text"], tensors["loss_text"].squeeze(), LOSSES)
    assert_close(out.losses[f"{task}_image"], tensors["loss_image"].squeeze(), LOSSES)
    assert_close(out.loss, tensors["loss_total"].squeeze(), LOSSES)
    head = model.editing_head if task == "edit" else model.generation_head
    for index, sample in enumerate(info["samples"]):
        before_codes = torch.tensor(sample["image_positions"]) - 1
        logits = head(hidden[index, before_codes])
        assert_close(logits, tensors[f"image_logits_{index}"], LOGITS)
        codes = torch.tensor(sample["target_codes"])
        nll = torch.nn.functional.cross_entropy(logits, codes, reduction="none")
        assert_close(nll, tensors[f"image_token_nll_{index}"], LOSSES)
        before_text = torch.tensor(sample["text_label_positions"]) - 1
        assert_close(model.lm_head(hidden[index, before_text]), tensors[f"text_logits_{index}"], LOGITS)
        [found], _ = model.model.encode_images(
            batch["target_pixel_values"][index : index + 1], batch["target_grid"][index : index + 1]
        )
        assert found.tolist() == sample["target_codes"]


def test_source_embeddings(model, processor):
    """What the vision tower and the source adapter make of the pictures to be edited: 2.4e-6."""
    info, tensors = case("edit_loss_masked")
    for index, sample in enumerate(info["samples"]):
        source = images(sample["source_image"])
        pixels, grid = processor.image_processor.preprocess_cells([source], [(sample["height"], sample["width"])])
        pixels, grid = torch.from_numpy(pixels), torch.from_numpy(grid)
        _, [latents] = model.model.encode_images(pixels, grid)
        assert_close(latents, tensors[f"source_latents_{index}"], FEATURES)
        mask = torch.tensor([sample["latent_mask"]])
        assert_close(model.model.embed_source(pixels, grid, mask), tensors[f"pixel_features_{index}"], FEATURES)
        seen = processor.image_processor([source], return_tensors="pt")
        [features] = model.model.get_image_features(seen["pixel_values"], seen["image_grid_thw"]).pooler_output
        assert_close(features, tensors[f"image_embeds_{index}"], FEATURES)


@pytest.mark.parametrize("name", ["t2i_gen_training", "t2i_gen_eval", "edit_gen_training", "edit_gen_eval"])
def test_prompts_and_positions(model, processor, name):
    """Ids and padding of both branches, and every position of prompt and image, exact."""
    info, _ = case(name)
    inputs = generation_inputs(processor, name, info)
    assert inputs["input_ids"].tolist() == info["prompt_ids"]
    assert inputs["attention_mask"].tolist() == info["prompt_attention_mask"]
    null_mask = info["null_attention_mask"][0]
    padding = len(null_mask) - sum(null_mask)
    assert inputs["unconditional_input_ids"].tolist() == [info["null_ids"][0][padding:]]

    with record_forwards(model) as forwards:
        model.generate(**inputs, do_sample=False, decoder="plain")
    fed = torch.cat([kwargs["position_ids"] for kwargs in forwards], dim=2)
    conditional, unconditional = fed.unbind(dim=1)
    assert conditional.tolist() == info["position_ids_cond"]
    assert unconditional.tolist() == info["position_ids_null"]


@pytest.mark.parametrize(("name", "run"), GENERATIONS)
def test_generation(model, processor, name, run):
    """Codes exact; logits 7.1e-6 without guidance, 3.3e-5 with; pictures within 1 of 255."""
    info, tensors = case(name)
    inputs = generation_inputs(processor, name, info)
    out = model.generate(
        **inputs,
        task=task_of(name),
        guidance_scale=info[run]["guidance"],
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    [codes] = out.codes
    assert codes.shape == (info["height"] // 16, info["width"] // 16)
    assert codes.flatten().tolist() == info[run]["codes"]
    assert_close(torch.cat(out.logits), tensors[f"logits_{run}"], LOGITS if run == "g1" else GUIDED_LOGITS)
    decoded = model.decode_image_tokens(out.sequences)
    if f"decoded_{run}" in tensors:
        assert_close(decoded[0], tensors[f"decoded_{run}"].squeeze(0), DECODED)
    [picture] = processor.post_process_multimodal_output(decoded, generation_mode="image")
    difference = np.asarray(picture).astype(int) - tensors[f"image_u8_{run}"].numpy().astype(int)
    assert np.abs(difference).max() <= 1


def test_the_released_loops_lost_mask_is_not_reproduced(model, processor):
    """With guidance, `as_is` sees the padding of the unconditional prompt: ours must differ from it."""
    info, _ = case("edit_gen_training")
    inputs = generation_inputs(processor, "edit_gen_training", info)
    out = model.generate(**inputs, task="edit", do_sample=False, return_dict_in_generate=True)
    assert out.codes[0].flatten().tolist() == info["g3_corrected"]["codes"] != info["g3_as_is"]["codes"]


def test_sampling_filters(model):
    """top-k and top-p keep exactly the released programs' candidates."""
    info, tensors = case("sampling")
    for setting in info["settings"]:
        config = model._prepare_generation_config(
            None,
            do_sample=True,
            temperature=setting["temperature"],
            top_k=setting["top_k"],
            top_p=setting["top_p"],
        )[0]
        processors = model._get_logits_processor(config, input_ids_seq_length=1, device="cpu")
        scores = processors(torch.zeros(3, 1, dtype=torch.long), tensors["logits"].clone())
        assert [row.isfinite().nonzero().flatten().tolist() for row in scores] == setting["kept"]
