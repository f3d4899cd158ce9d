import pytest
import torch

import worlds
from expunge.engine import loop
from expunge.engine.run_state import seed_draws
from expunge.workflows import build_plan


@pytest.mark.parametrize("seed", [0, 5, 2**55 + 1])
def test_the_draws_are_those_after_torch_manual_seed(seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        expected = torch.rand(5)
        seed_draws(seed, torch.device("cpu"))
        assert torch.equal(torch.rand(5), expected)


def test_steps_on_the_cpu_queue_no_seed_for_a_gpu(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_initialized():
        pytest.skip("the GPU is in use, and is seeded at once")
    queued: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", queued.append)
    model = text.model()
    before = [p.clone() for p in model.parameters()]
    loop.run(build_plan.plan("finetune", {"epochs": 1}), model, text.modality, text.sets)
    assert any(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True)), "steps were made"
    assert queued == []
