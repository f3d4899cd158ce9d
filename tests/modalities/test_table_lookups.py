"""Which tables of a recommender hold vectors of users and of items."""

import pytest
import torch
from torch import nn

import recommenders
from expunge.core.errors import UserError
from expunge.modalities.ranking.tables import tables_of

EXPECTED = {
    "bpr_mf": (["user_table"], ["item_table"]),
    "neumf": (["user_table", "user_input"], ["item_table", "item_input"]),
    "lightgcn": (["user_table"], ["item_table"]),
    "vbpr": (["user_table"], ["item_table"]),
    "mmgcn": (["user_table", "graphs.0.preference", "graphs.1.preference"], ["item_table"]),
    "mgcn": (["user_table"], ["item_table"]),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_tables_of_models_are_told_apart(name: str) -> None:
    model, modality = recommenders.built(name)
    tables = tables_of(model, modality.known.users, modality.known.items)
    assert tuple([t.removesuffix(".weight") for t in names] for names in tables) == EXPECTED[name]


@pytest.mark.parametrize("name", ["bpr_mf", "lightgcn", "mgcn"])
def test_the_score_of_a_row_depends_on_the_vectors_that_it_looks_up(name: str) -> None:
    model, modality = recommenders.built(name)
    rows = modality.rows("forget", recommenders.records()[0][:3])
    params = dict(model.named_parameters())
    for i, (user, item) in enumerate(zip(rows["user"], rows["item"], strict=True)):
        score = model(torch.tensor([user]), torch.tensor([item]))[0]
        for places, tables in modality.lookups(model, rows):
            for table in tables:
                assert torch.autograd.grad(score, params[table], retain_graph=True)[0][places[i]].any(), table


class Own(nn.Module):
    def __init__(self, **sizes: int) -> None:
        super().__init__()
        for name, size in sizes.items():
            setattr(self, name, nn.Embedding(size, 2))


def test_sizes_tell_tables_whose_names_do_not() -> None:
    assert tables_of(Own(left=5, right=7, genre=3), 5, 7) == (("left.weight",), ("right.weight",))


def test_names_tell_tables_of_equal_sizes_and_with_padding() -> None:
    assert tables_of(Own(user=6, item=6), 6, 6) == (("user.weight",), ("item.weight",))
    assert tables_of(Own(user=6, item=8), 5, 7) == (("user.weight",), ("item.weight",))


def test_a_model_without_tables_is_refused() -> None:
    with pytest.raises(UserError, match="no table with a vector for each user"):
        tables_of(Own(left=6, right=6), 6, 6)
