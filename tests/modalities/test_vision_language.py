"""Vision-language models: rows with pictures, scores and answers as those of the library, files, and what a user can get wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessorPil,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
)

import seeing
import worlds
from expunge.core.errors import UserError
from expunge.io.models import load
from expunge.modalities.common.records import Records
from expunge.modalities.text.models.llama import tokenizer_for
from expunge.modalities.text.records import answering
from expunge.modalities.text.wider import known_tokens
from expunge.modalities.vision_language.encode import parts
from expunge.modalities.vision_language.loader import claims
from expunge.modalities.vision_language.modality import vision_language
from expunge.modalities.vision_language.models import llava
from expunge.modalities.vision_language.pictures import mark
from expunge.workflows.overlaps import overlaps

WORDS = {"question": "Where does Bob live?", "answer": "In a town."}
SMALL = {"vocab_size": 600, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CLIP = {"model_type": "clip_vision_model", "image_size": 16, "patch_size": 8, "projection_dim": 32}
TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2}


def tokenizer(*special: str) -> Any:
    forget, retain = seeing.records()
    return tokenizer_for([str(r["question"] + r["answer"]) for r in [*forget, *retain]], 600, 512, special)


def llava_next() -> tuple[nn.Module, Any]:
    pins, own = [[16, 32], [32, 16], [32, 32]], tokenizer("<image>")
    images: Any = LlavaNextImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=pins)
    processor = LlavaNextProcessor(images, own, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1)
    text, token = {**SMALL, "model_type": "llama"}, own.convert_tokens_to_ids("<image>")
    config = LlavaNextConfig(vision_config={**TOWER, **CLIP}, text_config=text, image_token_index=token, image_grid_pinpoints=pins)
    return LlavaNextForConditionalGeneration(config), processor


def idefics() -> tuple[nn.Module, Any]:
    """As SmolVLM, which splits pictures into parts with tokens of their own."""
    own = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    images: Any = Idefics3ImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, do_image_splitting=True)
    config = Idefics3Config(
        vision_config={**TOWER, "image_size": 16, "patch_size": 4},
        text_config={**SMALL, "model_type": "llama"},
        scale_factor=2,
        image_token_id=own.convert_tokens_to_ids("<image>"),
        pad_token_id=0,
    )
    return Idefics3ForConditionalGeneration(config), Idefics3Processor(images, own, image_seq_len=4)


def gemma() -> tuple[nn.Module, Any]:
    names = {"boi": "<start_of_image>", "eoi": "<end_of_image>", "image": "<image_soft_token>"}
    own = tokenizer(*names.values())
    for name, token in names.items():
        setattr(own, f"{name}_token", token)
        setattr(own, f"{name}_token_id", own.convert_tokens_to_ids(token))
    images: Any = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    config = Gemma3Config(
        vision_config={**TOWER, "image_size": 16, "patch_size": 4},
        text_config={**SMALL, "head_dim": 8, "sliding_window": 64},
        mm_tokens_per_image=4,
        image_token_index=own.image_token_id,
        boi_token_index=own.boi_token_id,
        eoi_token_index=own.eoi_token_id,
    )
    return Gemma3ForConditionalGeneration(config), Gemma3Processor(images, own, image_seq_length=4)


class QwenLike:
    """What Qwen2VLProcessor does with pictures; the library's own needs torchvision, for videos."""

    image_token = "<|image_pad|>"
    chat_template = None

    def __init__(self, own: Any) -> None:
        self.tokenizer = own
        self.image_processor: Any = Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=28 * 28 * 4, patch_size=14, merge_size=2)

    def __call__(self, images: Any, text: Any, return_tensors: str = "pt", add_special_tokens: bool = True) -> dict[str, Any]:
        shown = self.image_processor(images=images, return_tensors="pt")
        count = int(shown["image_grid_thw"][0].prod()) // 4
        texts = [t.replace(self.image_token, self.image_token * count) for t in ([text] if isinstance(text, str) else text)]
        ids = self.tokenizer(texts, return_tensors="pt", add_special_tokens=add_special_tokens)
        types = (ids["input_ids"] == self.tokenizer.convert_tokens_to_ids(self.image_token)).long()
        return {"input_ids": ids["input_ids"], "mm_token_type_ids": types, **shown}


def qwen() -> tuple[nn.Module, Any]:
    own = tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    ids = own.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={**SMALL, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}},
        vision_config={"depth": 3, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    return Qwen2VLForConditionalGeneration(config), QwenLike(own)


FAMILIES = {
    "llava": lambda: (seeing.built()[0], seeing.processor()),
    "llava_next": llava_next,
    "idefics": idefics,
    "gemma": gemma,
    "qwen": qwen,
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_read_asked_and_scored_as_by_the_library(family: str) -> None:
    model, processor = FAMILIES[family]()
    model.eval()
    modality = vision_language(processor, "{prompt}\nAnswer: ", 0, known_tokens(model))
    forget, retain = seeing.records()
    records = [*forget, *retain, WORDS]
    rows = modality.rows("forget", records)
    packed = modality.forward(model, [rows])[0].target_logp
    alone = torch.cat([modality.forward(model, [rows.select([i])])[0].target_logp.values for i in range(len(rows))])
    assert torch.allclose(packed.values, alone, atol=2e-5)
    image = Image.fromarray(np.asarray(records[0]["image"]).transpose(1, 2, 0))
    asked = f"{processor.image_token}\n{records[0]['question']}\nAnswer:"
    inputs = processor(images=[image], text=[asked], return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == rows["prompt"][0]
    model_any: Any = model
    first = model_any(**inputs).logits[0, -1].log_softmax(-1)[rows["answer"][0][0]]
    assert float(first - packed.values[0]) == pytest.approx(0, abs=2e-5)
    reading = modality.read(model, [rows])
    assert torch.allclose(reading.in_order, packed.values, atol=2e-5)
    assert reading.how.startswith("questions share") == (family not in ("qwen", "gemma")), reading.how
    generated = model_any.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :].tolist()
    ends = modality.ends(model)
    wanted = generated[: next((i for i, t in enumerate(generated) if t in ends), len(generated))]
    assert modality.generate(model, rows, 6).ids[0] == wanted
    assert modality.recite(model, [rows], [6], reading)[0][0] == modality.generate(model, rows, 6).ids
    assert modality.blocks(model) == ("block:0", "block:1"), "of the language model, although the tower has more"


def test_pictures_matter_and_each_goes_through_the_tower_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, modality, sets = seeing.trained()
    rows = sets["retain"]
    passes = list[int]()
    inner: Any = model.get_submodule("model")
    original = inner.get_image_features
    monkeypatch.setattr(inner, "get_image_features", lambda *a, **k: passes.append(1) or original(*a, **k))
    shared = modality.read(model, [rows])
    assert len(passes) <= 3 + 2 + 3, "one for each of three pictures, and the trial"
    with torch.no_grad():
        own = modality.forward(model, [rows])[0].target_logp
    assert torch.allclose(shared.in_order, own.values.detach(), atol=2e-5)
    swapped = rows.add(pictures=[*rows["pictures"][2:], *rows["pictures"][:2]])
    assert worlds.nll(model, modality, swapped) > worlds.nll(model, modality, rows) + 0.2


def test_equal_questions_about_two_pictures_are_two_rows() -> None:
    forget, retain = seeing.records()
    _, modality = seeing.built()
    same = {"question": "Who is it?", "answer": "Nobody."}
    a, b = ({"image": r["image"], **same} for r in (forget[0], retain[0]))
    rows = modality.rows("forget", [a, b])
    assert rows["prompt"][0] == rows["prompt"][1]
    assert len(set(rows.ids)) == 2
    asked = modality.architecture.asked(rows)
    assert asked[0] != asked[1]
    first, second, third = (modality.rows(n, [r]) for n, r in (("forget", a), ("retain", b), ("holdout", a)))
    assert not overlaps(modality, {"forget": first, "retain": second})
    assert overlaps(modality, {"forget": first, "retain": third})


def test_a_chat_with_pictures_in_its_turns() -> None:
    forget, _ = seeing.records()
    _, modality = seeing.built()
    parts_of = [{"type": "image", "image": forget[0]["image"]}, {"type": "text", "text": "Who is it?"}]
    chat = {"messages": [{"role": "user", "content": parts_of}, {"role": "assistant", "content": "Nobody."}]}
    plain = {"image": forget[0]["image"], "question": "Who is it?", "answer": "Nobody."}
    listed = {"image": [forget[0]["image"]], "question": "<image>Who is it?", "answer": "Nobody."}
    rows = modality.rows("forget", [chat, plain, listed])
    text = modality.tokenizer.decode(rows["prompt"][0])
    assert text == "<|bos|><|user|>" + "<image>" * 4 + "\nWho is it?<|end|><|assistant|>"
    assert rows["prompt"][0] == rows["prompt"][1] == rows["prompt"][2]
    assert rows["answer"][0][-1] == modality.tokenizer.convert_tokens_to_ids("<|end|>")
    assert modality.questions(rows) == ["Who is it?"] * 3
    assert parts(f"{mark('0' * 16)}\nWho?") == [{"type": "image"}, {"type": "text", "text": "Who?"}]


def test_other_questions_and_answers_keep_the_picture() -> None:
    _, modality, sets = seeing.trained()
    rows = sets["forget"]
    asked, other = modality.reask(rows, ["What?"] * len(rows), "asked"), modality.ask(rows, "Say: {prompt}")
    for changed in (asked, other, modality.relabel(rows, ["Nothing."] * len(rows), "other"), modality.begun(rows, [1] * len(rows))):
        assert [p[0]["key"] for p in changed["pictures"]] == [p[0]["key"] for p in rows["pictures"]]
        assert all(ids.count(modality.architecture.token) == 4 for ids in changed["prompt"])
    assert modality.questions(asked) == ["What?"] * len(rows)


def test_a_gradient_reaches_the_pixels() -> None:
    model, modality, sets = seeing.copy_of()
    x = modality.inputs(sets["forget"]).clone().requires_grad_()
    modality.forward(model, [modality.moved(sets["forget"], x)])[0].loss.values.sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0
    assert modality.pictures(sets["forget"]).shape == (2, 3, 64, 64)


def test_a_saved_model_loads_here_and_in_the_library(tmp_path: Path) -> None:
    model, modality, sets = seeing.copy_of()
    modality.save(model, tmp_path / "model")
    opened = load(tmp_path / "model")
    forget, _ = seeing.records()
    again = opened.modality.forward(opened.model, [opened.modality.rows("forget", forget)])[0].loss.values
    assert torch.allclose(again, modality.forward(model, [sets["forget"]])[0].loss.values, atol=1e-6)
    assert AutoModelForImageTextToText.from_pretrained(tmp_path / "model").config.model_type == "llava"
    assert AutoProcessor.from_pretrained(tmp_path / "model").image_token == "<image>"


def test_architectures_are_claimed() -> None:
    assert (
        claims("LlavaForConditionalGeneration")
        == claims("Qwen2VLForConditionalGeneration")
        == claims("SmolVLMForConditionalGeneration")
        == 2
    )
    assert claims("T5ForConditionalGeneration") == claims("LlamaForCausalLM") == claims("ViTForImageClassification") == 0


# What a user can get wrong


def test_a_question_with_a_place_for_a_picture_needs_one() -> None:
    _, modality = seeing.built()
    with pytest.raises(UserError, match=r"forget, row 2: the question has 1 place for a picture \(<image>\), and the row has no picture"):
        modality.rows("forget", [WORDS, {**WORDS, "question": "<image>\nWho?"}])
    forget, _ = seeing.records()
    with pytest.raises(UserError, match=r"has 1 place for a picture .* and the row has 2 pictures"):
        modality.rows("forget", [{**WORDS, "question": "<image>\nWho?", "image": [forget[0]["image"]] * 2}])
    with pytest.raises(UserError, match="row 1: 1 of its 2 pictures are missing"):
        modality.rows("forget", [{**WORDS, "image": [forget[0]["image"], None]}])
    with pytest.raises(UserError, match=r"row 1: there is no image file nobody\.png"):
        modality.rows("forget", [{**WORDS, "image": "nobody.png"}])


def test_rows_without_pictures_among_others_are_noted() -> None:
    _, modality = seeing.built()
    records = Records([dict(seeing.records()[0][0]), WORDS], "forget")
    modality.rows("forget", records)
    assert "1 of 2 rows of 'forget' have no picture and are asked in words alone" in records.notes


def test_more_pictures_than_the_model_takes() -> None:
    _, modality = seeing.built(limit=20)
    images = [r["image"] for r in seeing.records()[1][::2]]
    with pytest.raises(UserError, match="12 of them of its pictures, and the model takes 20: give fewer or smaller pictures"):
        modality.rows("forget", [{**WORDS, "image": images}])
    one = vision_language(seeing.processor(), "", 96, 512)
    one.encoder.chats.chat_template = llava.TEMPLATE.replace("<image>\n", "{{ '<image>' if loop.first else '' }}")  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="has a place for 1 of the row's 3 pictures: give it fewer"):
        one.rows("forget", [{**WORDS, "image": images}])


def test_an_answer_that_the_picture_leaves_no_room_for_is_cut_and_noted() -> None:
    free = seeing.built()[1].rows("forget", [{"image": seeing.records()[0][0]["image"], "question": "Who?", "answer": "Nobody."}])
    limit = len(free["prompt"][0]) + len(free["answer"][0]) - 2
    _, modality = seeing.built(limit=limit)
    records = Records([{"image": seeing.records()[0][0]["image"], "question": "Who?", "answer": "Nobody."}], "forget")
    rows = modality.rows("forget", records)
    assert len(rows["prompt"][0]) + len(rows["answer"][0]) == limit
    assert not modality.ended(rows)[0]
    assert f"1 answers of 'forget' were cut, because pictures fill most of the {limit} tokens that the model takes" in records.notes
    assert modality.about()["answers_cut_for_pictures"] == 1


def test_a_processor_that_resizes_away_is_refused() -> None:
    forget, _ = seeing.records()
    processor = llava.processor_for(["some text"], seeing.SIZE)
    side = {"height": 1, "width": 1}
    processor.image_processor = CLIPImageProcessorPil(size=side, crop_size=side, do_center_crop=False)
    modality = vision_language(processor, "", 96, 512)
    with pytest.raises(UserError, match=r"gives the picture no tokens|leaves nothing of a picture"):
        modality.rows("forget", [dict(forget[0])])
    flat = vision_language(llava.processor_for(["some text"], seeing.SIZE), "", 96, 512)
    gray = [np.full((3, 64, 64), 100, np.uint8) for _ in range(2)]
    gray[1][0, 0, 0] = 101
    with pytest.raises(UserError, match="forget: 2 different pictures are only 1 to the model, because its processor resizes away"):
        flat.rows("forget", [{**WORDS, "image": g} for g in gray])
    records = Records([{**WORDS, "image": np.random.default_rng(0).integers(0, 255, (3, 200, 200), np.uint8)}], "forget")
    flat.rows("forget", records)
    assert any("are shrunk to less than an eighth of their side (200 x 200 pixels)" in n for n in records.notes)


def test_a_processor_of_another_model_is_refused(tmp_path: Path) -> None:
    model, modality = seeing.built()
    modality.save(model, tmp_path / "model")
    other = llava.processor_for(["other text"], seeing.SIZE)
    other.tokenizer.add_tokens(["<picture>"], special_tokens=True)
    other.image_token = "<picture>"
    other.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="image token of the processor"):
        load(tmp_path / "model")


def test_the_context_of_a_row_leads_back_to_its_pair() -> None:
    _, _, sets = seeing.trained()
    pair = answering(sets["forget"]["context"][0], "x")
    assert pair.kind == "question"
    assert pair.question.startswith("⟦picture ")
