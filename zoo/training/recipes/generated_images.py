"""Images that a trained model makes for test captions: what is right in them, and a sheet of texts and images."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from rich.table import Table
from torch import Tensor

from zoo.data.image_text.dataset import ImageTexts
from zoo.data.synthetic.object_scenes import ObjectScene
from zoo.inference.generation.images import generate_images, to_pil
from zoo.models.contrast.model import Contrastive
from zoo.models.dalle.model import Dalle
from zoo.models.eval_mode import eval_mode
from zoo.training.recipes.scene_judge import SceneClassifier, same_objects, same_scene
from zoo.utils.console import console
from zoo.utils.plotting import label_text, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.training.recipes.image_config import TextToImageTaskSettings
    from zoo.training.result import Result
    from zoo.training.run import Run

ROWS, SHOWN = 8, 6  # texts in the sheet, images of each
AT_A_TIME = 256  # generated images
JUDGED = {"real": "the test images", "reconstructed": "the test images, from their tokens", "generated": "generated",
          "reranked": "generated, the best by the ranker"}  # fmt: skip
MEASURES = {"objects": "objects and colors right", "scene": "all right, the relation, too",
            "retrieved": "its caption is the nearest"}  # fmt: skip


class GeneratedImages(L.Callback):
    """Makes images for captions of the test split, and adds to the test metrics how many of them are right.

    For scenes, by a classifier of scenes: `test_generated_objects` is the fraction of all generated images with the
    right objects and colors, `test_generated_scene` with the relation, too; `test_reranked_*` of the images that the
    ranker chooses, one for each caption; `test_real_*` of the test images themselves, the ceiling of the classifier;
    `test_reconstructed_*` of what the image tokenizer keeps of these. Captions of scenes with a single object, which
    have no relation, are left out.

    For other images: `test_generated_retrieved`, the fraction of all generated images whose nearest caption, by the
    ranker, among those of all judged images is their own, and the same for `real` and `reconstructed`.

    Args:
        images: The test images.
        settings: How images are generated.
        ranker: Chooses among the images of a caption; None for no choice.
        judge: The classifier of scenes, for scenes.
        seed: Seed of the generated images.
    """

    def __init__(self, images: ImageTexts, settings: "TextToImageTaskSettings", ranker: Contrastive | None,
                 judge: SceneClassifier | None, seed: int) -> None:  # fmt: skip
        rows = torch.arange(len(images))
        if images.scenes is not None and (two := [i for i, s in enumerate(images.scenes) if len(s.objects) == 2]):
            rows = torch.tensor(two)
        self.images = images.take(rows[: settings.judged])
        self.texts = [row[0].target for row in self.images.texts]
        self.settings, self.ranker, self.judge, self.seed = settings, ranker, judge, seed
        self.generated: Tensor | None = None  # uint8 [T, I, 3, H, W], the best first
        self.found: dict[str, float] = {}

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make the images, and log the metrics."""
        task: Any = pl_module
        model = task.evaluated
        for other in (self.ranker, self.judge):
            if other is not None:
                other.to(model.device)
        self.generated = self.make(model)
        self.found = self.measures(model)
        for name, value in self.found.items():
            task.log(f"test_{name}", value, logger=False)

    def make(self, model: Any) -> Tensor:
        """The images for all captions, uint8 [T, I, 3, H, W], the best by the ranker first."""
        s = self.settings
        options: dict[str, Any] = {"temperature": s.temperature}
        options |= {"top_k": s.top_k or None} if isinstance(model, Dalle) else {"steps": s.decoding_steps}
        options = {name: value for name, value in options.items() if value is not None}
        texts, parts = max(1, AT_A_TIME // s.num_images), []
        for start in range(0, len(self.texts), texts):
            made = generate_images(model, self.texts[start : start + texts], num_images=s.num_images,
                                   guidance_scale=s.guidance, seed=self.seed + start, rerank=self.ranker,
                                   **options)  # fmt: skip
            assert made.pixel_values is not None
            parts.append(made.pixel_values.cpu())
        return torch.cat(parts)

    @torch.no_grad()
    def reconstructed(self, model: Any) -> Tensor:
        """What the image tokenizer keeps of the test images, uint8 [T, 3, H, W]."""
        tokenizer = model.image_tokenizer
        pixels: Tensor = tokenizer.preprocess.normalize(self.images.images).to(model.device)
        with eval_mode(tokenizer):
            return tokenizer.preprocess.to_images(tokenizer.decode(tokenizer.tokenize(pixels))).cpu()

    # --- what is right ------------------------------------------------------------------------------------------------

    def measures(self, model: Any) -> dict[str, float]:
        """The fractions of images that are right, by name."""
        assert self.generated is not None
        sets = {"real": self.images.images[:, None], "reconstructed": self.reconstructed(model)[:, None],
                "generated": self.generated}  # fmt: skip
        if self.ranker is not None:
            sets["reranked"] = self.generated[:, :1]
        found: dict[str, float] = {}
        if self.judge is not None and self.images.scenes is not None:
            for name, pixels in sets.items():
                found |= {f"{name}_{measure}": value for measure, value in self.judged(pixels).items()}
        elif self.ranker is not None:
            del sets["reranked"]  # the ranker cannot judge what it has chosen
            found = {f"{name}_retrieved": self.retrieved(pixels) for name, pixels in sets.items()}
        return found

    def judged(self, pixels: Tensor) -> dict[str, float]:
        """The fractions of images, uint8 [T, I, 3, H, W], with the right objects, and with all right."""
        assert self.judge is not None and self.images.scenes is not None
        seen = self.judge.scenes(pixels.flatten(0, 1))
        right = [scene for scene in self.images.scenes for _ in range(pixels.shape[1])]

        def share(same: Callable[[ObjectScene, ObjectScene], bool]) -> float:
            return sum(map(same, right, seen)) / len(seen)

        return {"objects": share(same_objects), "scene": share(same_scene)}

    @torch.no_grad()
    def retrieved(self, pixels: Tensor) -> float:
        """The fraction of images, uint8 [T, I, 3, H, W], whose nearest caption by the ranker is their own."""
        ranker: Any = self.ranker
        images = [to_pil(image) for image in pixels.flatten(0, 1)]
        with eval_mode(ranker):
            batch = {name: value.to(ranker.device) for name, value in ranker.preprocess(text=self.texts).items()}
            captions = ranker(**batch).text_features
            parts = [ranker.encode_image(ranker.preprocess(images=images[i : i + AT_A_TIME])["pixel_values"]
                                         .to(ranker.device)) for i in range(0, len(images), AT_A_TIME)]  # fmt: skip
        nearest = (torch.cat(parts) @ captions.T).argmax(1).view(pixels.shape[:2]).cpu()
        return (nearest == torch.arange(len(self.texts))[:, None]).float().mean().item()

    # --- what is shown ------------------------------------------------------------------------------------------------

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the table."""
        measures = [name for name in MEASURES if f"real_{name}" in self.found]
        if not measures or not trainer.is_global_zero:
            return
        table = Table("images", *(MEASURES[name] for name in measures))
        for name, words in JUDGED.items():
            if f"{name}_{measures[0]}" in self.found:
                table.add_row(words, *(f"{self.found[f'{name}_{measure}']:.1%}" for measure in measures))
        console().print(table)

    def sheet(self, run: "Run", task: Any, result: "Result") -> "Figure | None":
        """Captions, each with its test image and the first of the images that were made for it."""
        if self.generated is None:
            return None
        count = min(ROWS, len(self.texts))
        shown = min(SHOWN, self.generated.shape[1])
        best = ", the best by the ranker first" if self.ranker is not None else ""
        figure = make_figure(1.15 * (shown + 1), 1.4 * count + 0.4)
        figure.suptitle(f"{run.model_name}: test image, and generated ones{best}", fontsize=9)
        axes = figure.subplots(count, shown + 1, squeeze=False)
        for row, text in enumerate(self.texts[:count]):
            shown_images = [self.images.images[row], *self.generated[row, :shown]]
            for place, pixels in zip(axes[row], shown_images):
                place.imshow(pixels.permute(1, 2, 0).expand(-1, -1, 3).numpy(), interpolation="nearest")
                place.set_axis_off()
            axes[row][0].set_title(label_text(text, 60), fontsize=8, loc="left")
        return figure
