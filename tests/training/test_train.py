"""Stage two: what is trained, selected, saved and resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cache.pairs import cached_pairs
from cache.stores import open_stores
from pipeline.core.config import TrainConfig
from pipeline.core.errors import StoreCorrupt, StoreMismatch, UsageError
from pipeline.core.objective_config import RankingConfig
from pipeline.core.presets import preset_names
from pipeline.objectives.label_order import rank_order
from pipeline.objectives.rank_n_contrast import Ranking, rank_n_contrast
from pipeline.training.heads import Heads, file_tensors, load_tensors
from pipeline.training.run_folder import open_run
from pipeline.training.train import missing_inputs, resolve_training, train
from pipeline.training.training_data import draw_captions, epoch_batches, epoch_rng
from tests.planted import plant
from tests.stage_two import unlisted
from tests.unseen import with_rubbish_in_the_test_splits

RANKING = Ranking(RankingConfig())
SMALL = TrainConfig(batch_size=4, epochs=4, width=16, learning_rate=1e-2, standardise="always", threads=1)

QUICK_TRAINING = ["epochs=2", "batch_size=8", "width=16", "threads=1"]


def weights(folder: Path, seed: int = 0) -> bytes:
    return (folder / "seeds" / str(seed) / "heads.safetensors").read_bytes()


def test_a_run_holds_heads_config_and_a_metrics_line_an_epoch_and_seed(stores: Path, tmp_path: Path) -> None:
    run = train(stores, method=SMALL, seeds=2, out=tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["epoch"]) for line in lines] == [(s, e) for s in (0, 1) for e in (1, 2, 3, 4)]
    assert open_run(tmp_path).config == SMALL.model_copy(update={"seeds": (0, 1)})
    for seed in (0, 1):
        own = [line for line in lines if line["seed"] == seed]
        best = min(own, key=lambda line: line["dev_loss"])
        assert run.about["seeds"][str(seed)] == {"epoch": best["epoch"], "dev_loss": best["dev_loss"], "threads": 1}
    losses = {int(seed): found["dev_loss"] for seed, found in run.about["seeds"].items()}
    assert losses[0] != losses[1]
    assert run.about["best_seed"] == min(losses, key=losses.__getitem__)
    assert (tmp_path / "heads.safetensors").read_bytes() == weights(tmp_path, run.about["best_seed"])
    assert not list(tmp_path.glob("**/checkpoint.safetensors"))


def test_training_is_the_plain_loop_of_the_paper(stores: Path, tmp_path: Path) -> None:
    """The oracle has nothing fast in it: autograd through the loops of Eq. 3-4, one row at a time."""
    config = SMALL.model_copy(update={"epochs": 1, "standardise": "never"})
    train(stores, method=config, seeds=1, out=tmp_path)
    pairs = cached_pairs(open_stores(stores), "train", style="dimensional")
    heads = Heads(384, 384, dim=16)
    heads.initialise(0)
    adam = torch.optim.Adam(heads.parameters(), lr=1e-2)
    losses = []
    for chunk in epoch_batches(pairs, 4, epoch_rng(0, 0), [RANKING]):
        for rows, captions in zip(chunk.rows, chunk.captions, strict=True):
            speech = torch.stack([heads.embed_speech(pairs.speech[row]) for row in rows])
            text = torch.stack([heads.embed_text(pairs.text[row]) for row in captions])
            logits = (speech @ text.T) * heads.log_scale.exp()
            loss = _plain_loss(logits, pairs.labels[rows, :2])
            losses.append(loss.item())
            adam.zero_grad()
            loss.backward()
            adam.step()
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["train_loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    tensors, _ = load_tensors(tmp_path / "seeds/0/heads.safetensors")
    for name, tensor in file_tensors(heads).items():
        assert torch.allclose(tensors[name], tensor, atol=1e-5), name


def _plain_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    size = len(logits)
    terms = []
    for i in range(size):
        far = ((labels - labels[i]) ** 2).sum(1)
        for j in range(size):
            others = [k for k in range(size) if far[k] >= far[j] - 1e-9]
            terms.append(torch.logsumexp(logits[i, others], 0) - logits[i, j])
    return torch.stack(terms).mean()


def test_the_reference_step_trains_the_same_heads_to_rounding(stores: Path, tmp_path: Path) -> None:
    overrides = ["batch_size=4", "epochs=3", "width=16", "learning_rate=1e-2", "threads=1", "schedule=cosine"]
    runs = {
        step: train(stores, seeds=1, out=tmp_path / step, overrides=[*overrides, f"step={step}"])
        for step in ("auto", "reference")
    }
    assert runs["reference"].config.step == "reference"
    fast, reference = (run.heads().state_dict() for run in runs.values())
    for name, tensor in fast.items():
        assert torch.allclose(tensor, reference[name], atol=1e-5), name


def test_a_finished_run_of_before_some_settings_existed_is_the_same_run(stores: Path, tmp_path: Path) -> None:
    run = train(stores, method=SMALL, seeds=1, out=tmp_path)
    before = weights(tmp_path)
    tree = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for name in ("step", "grid", "gap", "norm", "start", "temperature_schedule", "temperature_end"):
        del tree[name]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    unlisted(tmp_path)
    assert open_run(tmp_path).config == run.config
    assert train(stores, method=SMALL, seeds=1, out=tmp_path).seeds == [0]
    assert weights(tmp_path) == before
    with pytest.raises(StoreMismatch, match='step: the run has "auto", now "reference"'):
        train(stores, method=SMALL.model_copy(update={"step": "reference"}), seeds=1, out=tmp_path)


def test_an_epoch_shows_every_pair_at_most_once_and_another_epoch_another_order(stores: Path) -> None:
    pairs = cached_pairs(open_stores(stores), "train", style="dimensional")
    seen = [
        torch.cat([b.rows.flatten() for b in epoch_batches(pairs, 5, epoch_rng(0, epoch), [RANKING])])
        for epoch in (0, 1, 0)
    ]
    assert len(seen[0]) == len(seen[0].unique()) == 10  # 12 pairs, two batches of five
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_an_epoch_in_parts_is_the_whole_epoch(stores: Path) -> None:
    pairs = cached_pairs(open_stores(stores), "train", style="dimensional")
    whole, *parts = (
        list(epoch_batches(pairs, 3, epoch_rng(0, 0), [RANKING], part))
        for part in (slice(None), slice(0, 1), slice(1, 3), slice(3, None))
    )
    for name in ("rows", "captions"):
        joined = torch.cat([getattr(batches, name) for part in parts for batches in part])
        assert torch.equal(torch.cat([getattr(batches, name) for batches in whole]), joined)


def test_seeds_of_one_shuffle_see_the_same_batches_from_other_heads(stores: Path, tmp_path: Path) -> None:
    still = SMALL.model_copy(update={"epochs": 1, "learning_rate": 1e-12, "shuffle_seed": 5})
    one = train(stores, method=still, seeds=[5], out=tmp_path / "one")
    own = train(stores, method=still.model_copy(update={"shuffle_seed": None}), seeds=[5], out=tmp_path / "own")
    other = train(stores, method=still, seeds=[6], out=tmp_path / "other")
    lines = [json.loads((run.folder / "metrics.jsonl").read_text())["train_loss"] for run in (one, own, other)]
    assert lines[0] == lines[1] != lines[2]


def test_a_batch_pairs_each_utterance_with_a_caption_of_its_own(stores: Path) -> None:
    opened = open_stores(stores)
    pairs = cached_pairs(opened, "train", style="dimensional")
    links = opened.captions.links("dimensional", len(opened.manifest))
    for batch in epoch_batches(pairs, 4, epoch_rng(0, 0), [RANKING]):
        for row, caption in zip(batch.rows.flatten().tolist(), batch.captions.flatten().tolist(), strict=True):
            utterance = pairs.rows[row]
            own = links.text[links.offsets[utterance] : links.offsets[utterance + 1]]
            vectors = torch.tensor(opened.text.read(own)[0])
            assert any(torch.equal(pairs.text[caption], vector) for vector in vectors)
        expected = rank_order(pairs.labels[batch.rows][..., :2])
        assert torch.equal(batch.prepared[0].candidates, expected.candidates)


def test_only_rows_of_the_named_splits_are_read(stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_stores(stores)
    read: set[int] = set()
    original = type(opened.audio).read

    def noted(self, rows):
        if self.path.name == "audio.h5":
            read.update(rows.tolist())
        return original(self, rows)

    monkeypatch.setattr(type(opened.audio), "read", noted)
    cached_pairs(opened, "train", style="dimensional")
    assert read == {row for row, split in enumerate(opened.manifest.split) if split == "train"}


def test_no_row_of_the_test_split_is_read_before_evaluation(all_styles: Path, tmp_path: Path) -> None:
    """Every vector, feature, caption's vector and label that only test utterances have is replaced by rubbish."""
    configs = {name: resolve_training(name, overrides=QUICK_TRAINING) for name in preset_names("methods")}
    names = [name for name, config in configs.items() if not missing_inputs(open_stores(all_styles), config)]
    assert len(names) > 10
    for name in names:
        train(
            all_styles, method=resolve_training(name, overrides=QUICK_TRAINING), seeds=1, out=tmp_path / "before" / name
        )
    stores = with_rubbish_in_the_test_splits(all_styles, tmp_path / "stores")
    for name in names:
        train(stores, method=resolve_training(name, overrides=QUICK_TRAINING), seeds=1, out=tmp_path / "after" / name)
        assert weights(tmp_path / "before" / name) == weights(tmp_path / "after" / name), name


def test_learning_lowers_the_development_loss(stores: Path, tmp_path: Path) -> None:
    train(stores, method=SMALL.model_copy(update={"epochs": 20}), seeds=1, out=tmp_path)
    losses = [json.loads(line)["dev_loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert min(losses) < losses[0] - 0.05


def test_standardisation_is_of_the_training_split_and_saved_with_the_heads(stores: Path, tmp_path: Path) -> None:
    run = train(stores, method=SMALL, seeds=1, out=tmp_path)
    speech = open_stores(stores).speech("train").astype(np.float64)
    heads = run.heads()
    assert np.allclose(heads.audio_mean.numpy(), speech.mean(0), atol=1e-4)
    assert np.allclose(heads.audio_std.numpy(), speech.std(0, ddof=1), rtol=1e-4, atol=1e-6)
    never = train(stores, method=SMALL.model_copy(update={"standardise": "never"}), seeds=1, out=tmp_path / "n")
    assert not never.heads().audio_mean.any()


def test_the_epoch_of_the_lowest_development_loss_is_kept_and_not_the_last(stores: Path, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"epochs": 150, "learning_rate": 3e-2})  # overfits twelve pairs
    run = train(stores, method=config, seeds=1, out=tmp_path)
    losses = [json.loads(line)["dev_loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = int(np.argmin(losses))
    assert best < 149
    assert run.about["seeds"]["0"]["epoch"] == best + 1
    again = train(stores, method=config.model_copy(update={"epochs": best + 1}), seeds=1, out=tmp_path / "short")
    for one, other in zip(run.heads().parameters(), again.heads().parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_temperature_never_falls_below_one_hundredth(stores: Path, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"temperature": 0.005, "learning_rate": 1e-9, "epochs": 1})
    train(stores, method=config, seeds=1, out=tmp_path)
    found = [json.loads(line)["temperature"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert min(found) >= 0.01 - 1e-8


def test_captions_are_drawn_from_all_of_an_utterances_own(tmp_path: Path) -> None:
    pairs = cached_pairs(plant(tmp_path, {"train": 30}, audio_width=4, text_width=4), "train", style="dimensional")
    assert pairs.offsets.diff().tolist() == [4] * 30
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([draw_captions(pairs, generator) for _ in range(60)])
    for row in range(30):
        own = pairs.caption[pairs.offsets[row] : pairs.offsets[row + 1]]
        assert set(draws[:, row].tolist()) == set(own.tolist())


def test_one_seed_gives_one_result(stores: Path, tmp_path: Path) -> None:
    train(stores, method=SMALL, seeds=[7], out=tmp_path / "a")
    train(stores, method=SMALL, seeds=[7], out=tmp_path / "b")
    train(stores, method=SMALL, seeds=[8], out=tmp_path / "c")
    assert weights(tmp_path / "a", 7) == weights(tmp_path / "b", 7)
    assert weights(tmp_path / "a", 7) != weights(tmp_path / "c", 8)


def test_more_seeds_are_added_and_finished_ones_not_trained_again(stores: Path, tmp_path: Path) -> None:
    train(stores, method=SMALL, seeds=1, out=tmp_path)
    before = (tmp_path / "seeds/0/heads.safetensors").stat().st_mtime_ns
    run = train(stores, method=SMALL, seeds=2, out=tmp_path)
    assert run.seeds == [0, 1]
    assert (tmp_path / "seeds/0/heads.safetensors").stat().st_mtime_ns == before


def test_another_config_or_other_data_is_refused(stores: Path, tmp_path: Path) -> None:
    train(stores, method=SMALL, seeds=1, out=tmp_path / "run")
    with pytest.raises(StoreMismatch, match=r"width: the run has 16, now 8"):
        train(stores, method=SMALL.model_copy(update={"width": 8}), seeds=1, out=tmp_path / "run")
    shutil.copytree(stores, tmp_path / "stores")
    table = (tmp_path / "stores/manifest.csv").read_text().splitlines()
    fields = table[1].split(",")
    fields[8] = "6.9"  # one valence
    (tmp_path / "stores/manifest.csv").write_text("\n".join([table[0], ",".join(fields), *table[2:]]) + "\n")
    with pytest.raises(StoreCorrupt, match=r"manifest.csv: modified after extract-features wrote it"):
        train(tmp_path / "stores", method=SMALL, seeds=1, out=tmp_path / "run")
    unlisted(tmp_path / "stores")
    with pytest.raises(StoreMismatch, match="the training data changed"):
        train(tmp_path / "stores", method=SMALL, seeds=1, out=tmp_path / "run")
    train(tmp_path / "stores", method=SMALL, seeds=1, out=tmp_path / "run", fresh=True)


def test_nothing_to_train_on_is_said(stores: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no captions of style acoustic"):
        train(stores, method=SMALL.model_copy(update={"style": "acoustic"}), out=tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        train(tmp_path / "nowhere", out=tmp_path)
    with pytest.raises(UsageError, match="no trained heads"):
        open_run(tmp_path / "nowhere")


def test_the_losses_of_a_batch_of_batches_are_their_mean() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5, 5), torch.rand(3, 5, 2)
    orders = rank_order(labels)
    each = [rank_n_contrast(logits[i], orders[i]) for i in range(3)]
    assert torch.allclose(rank_n_contrast(logits, orders), torch.stack(each).mean())


VOTED = ["objective.name=soft_targets", "objective.targets=same_emotion", "style=acoustic", *QUICK_TRAINING]


def test_a_run_trains_on_votes_where_the_stores_have_them_and_on_no_others(tmp_path: Path) -> None:
    plain = plant(tmp_path / "plain", {"train": 40, "dev": 16, "test": 16}, styles=("acoustic",))
    rated = plant(tmp_path / "rated", {"train": 40, "dev": 16, "test": 16}, styles=("acoustic",), raters=True)
    train(plain, overrides=VOTED, out=tmp_path / "of plain")
    train(rated, overrides=VOTED, out=tmp_path / "of rated")
    assert weights(tmp_path / "of plain") == weights(tmp_path / "of rated")  # nobody asked for the votes
    train(rated, overrides=[*VOTED, "objective.votes=true"], out=tmp_path / "by votes")
    assert weights(tmp_path / "by votes") != weights(tmp_path / "of rated")
    again = train(rated, overrides=[*VOTED, "objective.votes=true", "step=reference"], out=tmp_path / "reference")
    fast, _ = load_tensors(tmp_path / "by votes" / "seeds" / "0" / "heads.safetensors")
    for name, tensor in load_tensors(again.folder / "seeds" / "0" / "heads.safetensors")[0].items():
        assert torch.allclose(tensor, fast[name], atol=1e-5), name
    with pytest.raises(UsageError, match=r"objective\.votes: stores without votes"):
        train(plain, overrides=[*VOTED, "objective.votes=true"], out=tmp_path / "refused")
    config = resolve_training("supcon", overrides=["objective.votes=true", "style=acoustic"])
    assert (missing_inputs(plain, config), missing_inputs(rated, config)) == ("raters' votes by category", "")


def test_a_run_of_votes_is_refused_where_the_votes_are_others(tmp_path: Path) -> None:
    stores = plant(tmp_path / "rated", {"train": 24, "dev": 16, "test": 16}, styles=("acoustic",), raters=True)
    votes = ["objective.votes=true", *VOTED]
    train(stores, overrides=votes, out=tmp_path / "voted")
    train(stores, overrides=VOTED, out=tmp_path / "plain")
    assert stores.manifest.ratings is not None
    others = replace(stores.manifest.ratings, votes=stores.manifest.ratings.votes[::-1])
    stores.manifest = replace(stores.manifest, ratings=others)
    train(stores, overrides=VOTED, out=tmp_path / "plain")
    with pytest.raises(StoreMismatch):
        train(stores, overrides=votes, out=tmp_path / "voted")


@pytest.mark.parametrize("targets", ["identity", "smooth", "kernel"])
def test_votes_are_refused_for_targets_without_categories(targets: str) -> None:
    overrides = ["objective.name=soft_targets", f"objective.targets={targets}", "objective.votes=true"]
    with pytest.raises(UsageError, match=f"votes: targets {targets}.* have no categories"):
        resolve_training("emotionrankclap", overrides=overrides)
