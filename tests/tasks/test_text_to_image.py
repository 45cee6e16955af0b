"""Text to image: tokens made once, texts dropped and tokens masked as functions of their keys, and training."""

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import zoo
from zoo.tasks import TextToImageTask

SMALL = dict(width=32, depth=2, heads=4, mlp_dim=48, text_vocab_size=40, text_length=9, image_vocab_size=20,
             image_grid=(3, 4))  # fmt: skip


class Tokenizer(nn.Module):
    """A stand-in that counts the images that it reads."""

    class config:
        vocab_size, grid = 20, (3, 4)

    read = 0

    def tokenize(self, pixel_values: Tensor) -> Tensor:
        self.read += len(pixel_values)
        return pixel_values.long()


def task(name: str, tokenizer: nn.Module | None = None, more: dict | None = None, **options) -> TextToImageTask:
    model = zoo.create_model(f"{name}_nano", seed=0, **SMALL | (more or {}))
    return TextToImageTask(model, lr=3e-3, image_tokenizer=tokenizer, **options)  # type: ignore[arg-type]


def batch(index: list[int], epoch: int = 1) -> dict[str, Tensor]:
    """Rows that are a function of their number; the image is known from the first token of the text."""
    rows = torch.stack([torch.randint(1, 40, (9,), generator=torch.Generator().manual_seed(i)) for i in index])
    rows[:, 6:] = 0
    image = (rows[:, :1] + torch.arange(12)) % 20
    return {"input_ids": rows, "image_ids": image, "index": torch.tensor(index), "epoch": torch.tensor(epoch)}


def test_images_are_tokenized_once() -> None:
    tokenizer = Tokenizer()
    one, given = task("dalle", tokenizer), batch([3, 8])
    pixels = {name: value for name, value in given.items() if name != "image_ids"}
    pixels["pixel_values"] = given["image_ids"].float()
    for _ in range(2):
        assert torch.equal(one.inputs(pixels, "train")["image_ids"], given["image_ids"])
    assert tokenizer.read == 2
    one.inputs(pixels, "val")  # another image may have the same number there
    assert tokenizer.read == 4
    assert one.loss_of(pixels, 0, 0).isclose(one.loss_of(given, 0, 0))
    without = {name: value for name, value in pixels.items() if name != "index"}
    one.inputs(without, "train")
    assert tokenizer.read == 6 and not any("tokenizer" in name for name in one.state_dict())


def test_dropped_texts_depend_on_the_item_alone() -> None:
    one = task("dalle", more=dict(text_dropout=0.3))

    def dropped(index: list[int], epoch: int) -> Tensor:
        given = batch(index)
        inputs = one.inputs(given, "train")
        random = one.random(given, len(index), epoch, torch.device("cpu"))
        return one.without_texts(inputs, random)["attention_mask"].sum(1) == 0

    found = dropped(list(range(600)), 1)
    assert abs(found.float().mean() - 0.3) < 0.06
    assert torch.equal(dropped([7, 500, 3], 1), found[[7, 500, 3]])
    assert not torch.equal(dropped(list(range(600)), 2), found)
    assert not TextToImageTask(zoo.create_model("dalle_nano", **SMALL)).without_texts(
        one.inputs(batch([0]), "train"), one.random(batch([0]), 1, 0, torch.device("cpu"))
    )["attention_mask"].eq(0).all()  # fmt: skip


def test_masked_tokens_are_those_of_the_cosine_schedule() -> None:
    one, given = task("maskgit"), batch(list(range(500)))
    masked = one.masked(given, given["image_ids"], 1)
    assert torch.equal(one.masked(batch([9, 4]), batch([9, 4])["image_ids"], 1), masked[[9, 4]])
    assert not torch.equal(one.masked(given, given["image_ids"], 2), masked)
    counts = masked.sum(1)
    assert counts.min() >= 1 and counts.max() == 12
    assert abs(counts.float().mean() / 12 - (2 / torch.pi + 0.5 / 12)) < 0.04  # the mean of the cosine, rounded up
    assert abs(masked.float().mean(0) - masked.float().mean()).max() < 0.1


def test_the_losses_are_those_of_the_models() -> None:
    given = batch([0, 1, 2])
    one = task("dalle", image_weight=3.0)
    inputs = one.inputs(given, "train")
    expected = one.own.loss(one.own(**inputs), **inputs, image_weight=3.0)
    assert one.loss_of(given, 0, 0).isclose(expected)
    other = task("maskgit")
    masked = other.masked(given, given["image_ids"], 1)
    scores = other.own(given["input_ids"], None, torch.where(masked, 20, given["image_ids"]))
    expected = nn.functional.cross_entropy(scores[masked], given["image_ids"][masked])
    assert other.loss_of(given, 0, 0).isclose(expected)


@pytest.mark.parametrize("name", ["dalle", "maskgit"])
def test_a_run_learns_and_its_checkpoint_paints(name, tmp_path) -> None:
    one = task(name, more=dict(text_dropout=0.1), ema=0.9)
    items = [{key: value[0] for key, value in batch([i]).items() if key != "epoch"} for i in range(16)]
    loader = DataLoader(items, batch_size=8)
    trainer = L.Trainer(max_steps=30, accelerator="cpu", logger=False, enable_progress_bar=False,
                        enable_model_summary=False, default_root_dir=tmp_path, log_every_n_steps=1,
                        enable_checkpointing=False)  # fmt: skip
    trainer.validate(one, loader, verbose=False)
    before = dict(trainer.callback_metrics)
    trainer.fit(one, loader)
    trainer.validate(one, loader, verbose=False)
    after = dict(trainer.callback_metrics)
    assert after["val_image_loss"] < before["val_image_loss"] - 0.15
    assert set(one.validation_metrics) <= set(after) and (name == "dalle") == ("val_text_loss" in after)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded = zoo.load(tmp_path / "last.ckpt")
    made = zoo.generate_images(loaded, batch([0, 1])["input_ids"], guidance_scale=2.0, seed=0)
    assert made.tokens.shape == (2, 1, 3, 4)
