"""Plots of attention over point clouds."""

import pytest
import torch
from peers import close, randomize

import zoo
from zoo.interpret.plot_point_cloud import attention_of, plot_cloud_attention, through_induced

CLOUD = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


def set_model(**options) -> zoo.Model:
    model = zoo.create_model("set_transformer_tiny", width=16, induced_points=4, seeds=2, **options)
    model.preprocess = model.default_preprocess()
    return randomize(model)


def colors(figure) -> list[torch.Tensor]:
    return [torch.as_tensor(axis.collections[0].get_array()) for axis in figure.axes if hasattr(axis, "get_zlim")]


def test_a_panel_for_each_seed_and_for_each_query(tmp_path):
    model = set_model().train()
    figure = plot_cloud_attention(model, CLOUD.numpy(), path=tmp_path / "seeds.png")
    assert len(colors(figure)) == 2 and (tmp_path / "seeds.png").stat().st_size > 10_000 and model.training
    shown = colors(plot_cloud_attention(model, CLOUD, queries=[3, 5, 0], head=1))
    assert len(shown) == 3 and all(len(values) == 20 for values in shown) and not torch.equal(shown[0], shown[1])


@torch.no_grad()
def test_attention_through_induced_points_is_the_product_of_both_maps():
    model = set_model()
    with zoo.capture(model) as captured:
        model(points=CLOUD[None])
    maps = {name: weights[0].mean(0) for name, weights in captured.items()}
    whole = through_induced(maps, "blocks.1.mixer")
    close(whole, maps["blocks.1.mixer"] @ maps["blocks.1.mixer.induced.mixer"])
    close(whole.sum(1), torch.ones(20))
    attention, titles = attention_of(maps, 20, [7], "blocks.1.mixer")
    close(attention, 20 * whole[7:8])
    assert titles == ["point 7"] and attention_of(maps, 20, [], None)[1] == ["seed 0", "seed 1"]


def test_a_point_transformer_and_what_does_not_fit():
    model = randomize(zoo.create_model("point_transformer_tiny", width=16, neighbors=4))
    (shown,) = colors(plot_cloud_attention(model, CLOUD[None], queries=[2]))
    assert (shown > 0).sum() <= 4
    assert len(colors(plot_cloud_attention(model, CLOUD[None]))) == 1
    for options, message in (
        ({"queries": [20]}, "20 is out of range, the cloud has the points 0 to 19"),
        ({"layer": "blocks.0.mixer"}, "attends to 2 points of 20: choose among stages.0.blocks.0.mixer"),
        ({"layer": "blocks.7.mixer"}, "does not exist; did you mean 'blocks.0.mixer'"),
        ({"head": 99}, "heads=99 is out of range"),
    ):
        with pytest.raises(ValueError, match=message):
            plot_cloud_attention(model, CLOUD[None], **options)
    with pytest.raises(ValueError, match="given 2 point clouds, expected one"):
        plot_cloud_attention(model, torch.stack([CLOUD, CLOUD]))
    with pytest.raises(ValueError, match="2 queries that are not points"):
        plot_cloud_attention(set_model(), CLOUD, queries=[1], layer="head.pooling.mixer")
    with pytest.raises(ValueError, match="Bert does not take point clouds"):
        plot_cloud_attention(zoo.create_model("bert_tiny", vocab_size=10), CLOUD)
