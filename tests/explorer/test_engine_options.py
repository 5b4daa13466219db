"""Presets, ladders, cascades, transfer, precision and budgets of `nasrob-tui eval --headless`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from explorer.errors import ExplorerError
from explorer.jobs import planning
from models.attacks import presets, registry
from models.errors import InvalidSpec, ModelsError
from tests.explorer.test_evaluate import AS_LOADED, EVAL, Cli, result

N = ("--examples", "60", "--format", "json")


def outcomes(store: Path, evaluation_id: str) -> list[tuple[object, ...]]:
    from store import Store

    with Store(store).read() as con:
        return con.execute(
            "SELECT * EXCLUDE (evaluation_id) FROM outcomes WHERE evaluation_id = ? ORDER BY example", [evaluation_id]
        ).fetchall()


class TestPresets:
    def test_the_study_s_attacks(self, cli: Cli, home_with_weights: Path) -> None:
        code, out, _ = cli(*EVAL, "--preset", "paper", *N)
        assert code == 0
        rows = result(out)
        assert [(r["attack"]["name"], r["attack"]["steps"], r["attack"]["eps"]) for r in rows] == [
            ("fgsm", 1, "8/255"),
            ("f-fgsm", 1, "8/255"),
            ("pgd", 10, "8/255"),
        ]

    def test_eps_goes_before_the_preset_s_and_attacks_add_to_it(self) -> None:
        asked = planning.Asked(presets=("paper",), attacks=("bim",), eps=("2/255",))
        assert [s.label for s in planning.resolve_attacks(asked)] == [
            "fgsm 2/255",
            "f-fgsm 2/255",
            "pgd-10 2/255",
            "bim-10 2/255",
        ]

    def test_a_person_s_own(self, home: Path) -> None:
        home.mkdir()
        (home / "presets.toml").write_text('[mine]\nattacks = ["pgd-3"]\neps = ["1/255", "3/255"]\n')
        specs = planning.resolve_attacks(planning.Asked(presets=("mine",)))
        assert [s.label for s in specs] == ["pgd-3 1/255", "pgd-3 3/255"]
        assert set(presets.entries()) >= {"mine", "paper", "autoattack", "sweep"}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("[mine", "cannot be read"),
            ('mine = "pgd"', "is a table"),
            ('[mine]\nattack = ["pgd"]', "is a table"),
            ("[mine]\nattacks = [1]", "list of texts"),
            ("[mine]\nattacks = []", "names no attack"),
        ],
    )
    def test_files_that_are_none(self, text: str, says: str, home: Path) -> None:
        home.mkdir()
        (home / "presets.toml").write_text(text)
        with pytest.raises(InvalidSpec, match=says):
            presets.entries()

    def test_every_shipped_preset_resolves(self) -> None:
        for name, preset in presets.entries().items():
            specs = planning.resolve_attacks(planning.Asked(presets=(name,)))
            assert len(specs) == len(preset.attacks) * max(1, len(preset.eps))


class TestLadder:
    WORDS = (*EVAL, *AS_LOADED, "--attack", "sweep@attack=pgd-4,grid=2/255:6/255:12/255:20/255", *N)

    def test_what_a_smaller_eps_broke_is_not_attacked_again(self, cli: Cli, home_with_weights: Path) -> None:
        code, out, _ = cli(*self.WORDS, "--eps", "12/255", "--eps", "2/255", "--eps", "6/255")
        assert code == 0
        rows = result(out)
        assert [r["attack"]["eps"] for r in rows] == ["2/255", "6/255", "12/255"]
        robust = [r["robust_accuracy"] for r in rows]
        assert robust == sorted(robust, reverse=True)
        assert robust[0] > robust[2]
        store = home_with_weights / "results.duckdb"
        below, above = ({row[0]: row for row in outcomes(store, r["evaluation_id"])} for r in rows[1:])
        names = registry_columns(store)
        stage, verdict = names.index("stage"), names.index("robust")
        for example, row in below.items():
            if not row[verdict]:
                assert above[example] == row, "taken over as it is"
        assert {row[stage] for row in above.values()} >= {"pgd 12/255", None}
        # Alone, without the smaller eps in the store, the same ladder gives the same outcomes.
        code, out, _ = cli(*self.WORDS, "--eps", "12/255", "--store", str(store.with_name("other.duckdb")))
        alone = result(out)[0]
        assert alone["evaluation_id"] == rows[2]["evaluation_id"]
        assert outcomes(store.with_name("other.duckdb"), alone["evaluation_id"]) == sorted(above.values())

    def test_stopped_in_the_middle_it_goes_on_at_the_next_stage(self, cli: Cli, home_with_weights: Path) -> None:
        words = (*self.WORDS, "--eps", "20/255", "--batch-size", "16")
        straight = home_with_weights / "straight.duckdb"
        _, out, _ = cli(*words, "--store", str(straight))
        identity = result(out)[0]["evaluation_id"]
        pieces = home_with_weights / "pieces.duckdb"
        seen = []
        for _ in range(30):
            code, out, err = cli(*words, "--store", str(pieces), "--max-forwards", "250")
            assert code == 0
            (row,) = result(out)
            seen.append(row["status"])
            if row["status"] == "complete":
                break
            assert "budget of 250 forward passes is spent" in err
        assert len(seen) > 2
        assert seen[-1] == "complete"
        jobs = json.loads(cli("jobs", "--format", "json")[1])
        assert {job["state"] for job in jobs} == {"complete", "cancelled"}
        assert [row[:9] for row in outcomes(pieces, identity)] == [row[:9] for row in outcomes(straight, identity)]
        from store import Store

        with Store(pieces).read() as con:
            assert con.execute("SELECT count(*) FROM survivals").fetchall() == [(0,)]


def registry_columns(store: Path) -> list[str]:
    from store import Store

    with Store(store).read() as con:
        return [c[0] for c in con.execute("SELECT * EXCLUDE (evaluation_id) FROM outcomes LIMIT 0").description or []]


def test_precision_is_part_of_the_identity_and_verdicts_are_close(cli: Cli, home_with_weights: Path) -> None:
    words = (*EVAL, "--attack", "pgd-4", "--eps", "12/255", *N)
    plain = result(cli(*words)[1])[0]
    half = result(cli(*words, "--precision", "bf16")[1])[0]
    assert half["precision"] == "bf16"
    assert half["evaluation_id"] != plain["evaluation_id"]
    assert abs(half["robust_accuracy"] - plain["robust_accuracy"]) <= 5
    folded = result(cli(*words, "--fold", "on")[1])[0]
    assert folded["evaluation_id"] == plain["evaluation_id"], "how the network is computed makes no other evaluation"


def test_transfer_from_another_model(cli: Cli, home_with_weights: Path) -> None:
    assert cli("train", "--arch", "vgg11-bn@width=8", "--dataset", "digits", "--epochs", "2", "--threads", "1")[0] == 0
    words = (*EVAL, "--attack", "pgd-4", "--eps", "24/255", *N)
    white = result(cli(*words, "--verdict", "last")[1])[0]
    code, out, err = cli(*words, "--surrogate", "vgg11-bn@width=8")
    assert code == 0, err
    (black,) = result(out)
    assert black["verdict"] == "last"
    assert black["attack"]["surrogate"]["architecture"] == "vgg11-bn@width=8"
    assert black["evaluation_id"] != white["evaluation_id"]
    assert black["robust_accuracy"] > white["robust_accuracy"]
    from models.specs import AttackSpec

    assert AttackSpec.from_dict(black["attack"]).label == "pgd-4 24/255 from vgg11-bn"


def test_estimate_says_what_it_will_cost(cli: Cli, home_with_weights: Path) -> None:
    _, _, err = cli(*EVAL, "--attack", "pgd-4", *N, "--estimate")
    assert "pgd-4 8/255: 60 examples, about" in err
    assert "forward and" in err
    _, _, err = cli(*EVAL, "--attack", "pgd-5", *N)
    assert "about" not in err, "short ones are not worth it"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--precision", "int8"], "float32"),
        (["--precision", "fp16"], "use bf16 or float32"),
        (["--fold", "maybe"], "auto, on or off"),
        (["--compile", "yes"], "auto, on or off"),
        (["--max-time", "soon"], "no duration"),
        (["--max-time", "0"], "no duration"),
        (["--max-forwards", "-1"], "must not be negative"),
        (["--surrogate-weights", "abc"], "belongs to --surrogate"),
        (["--surrogate", "vgg16-bn"], "train --arch vgg16-bn"),
        (["--surrogate", "resnet18@width=8", "--attack", "square"], "cannot be crafted on a surrogate"),
        (["--surrogate", "resnet18@width=8", "--attack", "sweep"], "cannot be crafted on a surrogate"),
        (["--family", "nas"], "for networks of your own"),
        (["--family", "animal"], "handcrafted or nas"),
        (["--preset", "papers"], "attacks --presets"),
        (["--norm", "L3"], "norm 'L3' is unknown"),
        (["--norm", "L2", "--attack", "mi-fgsm"], "not in L2"),
        (["--attack", "autoattack", "--verdict", "last"], "cascade"),
        (["--attack", "apgd-ce", "--step-size", "2/255"], "chooses its steps itself"),
        (["--attack", "sweep@attack=autoattack"], "cascade"),
        (["--attack", "sweep@grid=8/255:2/255"], "goes upward"),
        (["--attack", "apgd-t@targets=0"], "1 to 9"),
        (["--attack", "mi-fgsm@momentum=a"], "takes a number"),
        (["--attack", "apgd-t@target=3"], "targets"),
    ],
)
def test_bad_options_are_one_sentence(words: list[str], says: str, cli: Cli, home_with_weights: Path) -> None:
    code, out, err = cli(*EVAL, *words)
    assert code != 0
    assert out == ""
    assert says in err
    assert "Traceback" not in err


THREE_CLASSES = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
"""


def test_a_warning_belongs_to_its_attack(cli: Cli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses of APGD need more classes than there are; FGSM's does not."""
    import numpy as np
    from PIL import Image

    (tmp_path / "threeclasses.py").write_text(THREE_CLASSES)
    monkeypatch.syspath_prepend(str(tmp_path))
    rng = np.random.default_rng(0)
    for k in range(3):
        folder = tmp_path / "pictures" / "test" / f"class{k}"
        folder.mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    code, out, err = cli(
        "eval", "--headless", "--arch", "threeclasses:net", "--weights", "factory", "--threads", "1",
        "--dataset", f"folder:{tmp_path / 'pictures'}@size=8,resize=8", "--mean", "0", "--std", "1",
        "--attack", "apgd-t@steps=2", "--attack", "fgsm", "--format", "json",
    )  # fmt: skip
    assert code == 0, err
    first, second = result(out)
    assert any("needs 4 classes" in w for w in first["warnings"])
    assert not any("classes" in w for w in second["warnings"])


WAVY = """
import math

import torch
from torch import nn


def templates():
    signs = torch.randint(0, 2, (3, 192), generator=torch.Generator().manual_seed(0)) * 2 - 1
    return (7 + 3 * signs) / 15


class Wavy(nn.Module):
    # The nearest of three templates, seen through a wave whose nodes are the pixels' values and what lies 1/15 beside.
    def __init__(self, wave):
        super().__init__()
        self.linear = nn.Linear(192, 3)
        with torch.no_grad():
            self.linear.weight.copy_(2 * templates())
            self.linear.bias.copy_(-templates().square().sum(1))
        self.wave = wave

    def forward(self, x):
        w = 30 * math.pi
        return self.linear((x + self.wave * torch.sin(w * x) / w).flatten(1))


def net(wave: float = 0.0):
    return Wavy(wave)
"""


class TestThreeClasses:
    """A linear network and one with masked gradients, on a folder of images of three classes."""

    #: Images a class.
    COUNT = 12

    @pytest.fixture
    def words(self, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
        """Images are a class's template with the pixels of another class's, more and more of them."""
        import numpy as np
        from PIL import Image

        (tmp_path / "wavy.py").write_text(WAVY)
        monkeypatch.syspath_prepend(str(tmp_path))
        # The module of another test's folder, with the same text, may be loaded.
        monkeypatch.delitem(sys.modules, "wavy", raising=False)
        colours = (importlib.import_module("wavy").templates() * 255).round().numpy().astype(np.uint8)
        rng = np.random.default_rng(0)
        for k in range(3):
            folder = tmp_path / "pictures" / "test" / f"class{k}"
            folder.mkdir(parents=True)
            for i in range(self.COUNT):
                exchanged = rng.random(192) < 0.1 + 0.4 * i / self.COUNT
                image = np.where(exchanged, colours[(k + 1 + i % 2) % 3], colours[k])
                Image.fromarray(image.reshape(3, 8, 8).transpose(1, 2, 0)).save(folder / f"{i:02}.png")
        return (
            "eval", "--headless", "--arch", "wavy:net", "--weights", "factory", "--threads", "1", "--mean", "0",
            "--dataset", f"folder:{tmp_path / 'pictures'}@size=8,resize=8", "--std", "1", "--format", "json",
        )  # fmt: skip

    def test_autoattack_breaks_what_can_be_broken_and_says_what_it_lacks(
        self, words: tuple[str, ...], cli: Cli, home: Path, tmp_path: Path
    ) -> None:
        """The targeted loss needs four classes; the margin takes its place. Verdicts are those of the closed form."""
        import torch

        from models.datasets import registry as datasets

        code, out, err = cli(*words, "--attack", "autoattack", "--eps", "17/255")
        assert code == 0, err
        (row,) = result(out)
        assert any("needs 4 classes" in w for w in row["warnings"])
        examples = datasets.load(f"folder:{tmp_path / 'pictures'}@size=8,resize=8", "test")
        x, y = torch.from_numpy(examples.pixels(range(len(examples)))), torch.from_numpy(examples.labels)
        network = importlib.import_module("wavy").net()
        with torch.no_grad():
            z, weight = network(x), network.linear.weight
        ahead = z.gather(1, y[:, None]) - z
        reach = (weight[y][:, None] - weight[None]).abs().sum(2) * 17 / 255
        robust = (ahead - reach).scatter(1, y[:, None], torch.inf).amin(1)
        names = registry_columns(home / "results.duckdb")
        verdict, example = names.index("robust"), names.index("example")
        found = {o[example]: o[verdict] for o in outcomes(home / "results.duckdb", row["evaluation_id"])}
        assert {i: bool(robust[i] > 0) for i in found if abs(robust[i]) > 1e-3} == {
            i: v for i, v in found.items() if abs(robust[i]) > 1e-3
        }
        assert len(found) == 3 * self.COUNT
        assert 0.2 < sum(bool(v) for v in found.values()) / len(found) < 0.8

    def test_contradictions_are_those_of_masked_gradients(self, words: tuple[str, ...], cli: Cli) -> None:
        """On the wave one step of its length sees the slope of the whole; PGD stays in a trough."""
        for wave in ("0.0", "3.0"):
            code, out, err = cli(
                *words, "--set", f"wave={wave}",
                "--attack", "fgsm", "--attack", "pgd", "--eps", "21/255", "--eps", "30/255",
            )  # fmt: skip
            assert code == 0, err
            robust = {(r["attack"]["name"], r["attack"]["eps"]): r["robust_accuracy"] for r in result(out)}
            ids = {r["evaluation_id"]: (r["attack"]["name"], r["attack"]["eps"]) for r in result(out)}
            rows = json.loads(cli("sql", "FROM contradictions", "--format", "json")[1])
            if wave == "0.0":
                assert rows == []
                assert robust["fgsm", "21/255"] > robust["fgsm", "30/255"]
        found = {(ids[r["evaluation_a"]], ids[r["evaluation_b"]]): r for r in rows}
        pairs = {
            (("fgsm", "21/255"), ("pgd", "21/255")): "one step breaks more than many",
            (("fgsm", "21/255"), ("fgsm", "30/255")): "a larger eps breaks less",
        }
        for (weaker, stronger), finding in pairs.items():
            row = found[weaker, stronger]
            assert row["finding"] == finding
            assert (row["robust_a"], row["robust_b"]) == pytest.approx((robust[weaker], robust[stronger]))
            assert row["robust_a"] < row["robust_b"]
        for weaker, stronger in found:
            assert robust[weaker] < robust[stronger]


class TestBrokenByStage:
    def test_a_ladder_goes_upward(self, cli: Cli, home_with_weights: Path) -> None:
        code, out, _ = cli(*TestLadder.WORDS, "--eps", "20/255")
        assert code == 0
        identity = result(out)[0]["evaluation_id"]
        query = f"SELECT stage, n_broken FROM broken_by_stage('{identity}')"
        rows = json.loads(cli("sql", query, "--format", "json")[1])
        stages, counts = [r["stage"] for r in rows], [r["n_broken"] for r in rows]
        assert stages == [f"pgd {eps}/255" for eps in (2, 6, 12, 20) if f"pgd {eps}/255" in stages]
        assert stages != sorted(stages)
        assert counts != sorted(counts, reverse=True)

    def test_a_cascade_goes_in_the_order_of_its_attacks(self, tmp_path: Path) -> None:
        """Neither by name nor by count; a stage that broke nothing is left out."""
        from store import Store
        from store.results import append_outcomes, finish_evaluation, open_evaluation
        from tests.store.rows import attack, batch, request

        spec = registry.resolve("autoattack-plus")
        store = Store(tmp_path / "results.duckdb")
        rows = request("e", attack_id="cascade", n_requested=10, subset_digest="first 10")
        rows["attack"] = attack(attack_id="cascade", name=spec.name, config=spec.to_dict())
        open_evaluation(store, **rows)
        fates = {"fab-t": 4, "square": 1, "apgd-t": 2, "apgd-ce": 2, None: 1}
        example = iter(range(10))
        for stage, count in fates.items():
            robust = stage is None
            append_outcomes(
                store,
                "e",
                batch(
                    [next(example) for _ in range(count)],
                    stage=stage,
                    robust=robust,
                    clean_correct=True,
                    broken_at_step=None if robust else 1,
                    error=None,
                ),
                seconds=1,
            )
        finish_evaluation(store, "e", status="complete")
        with store.read() as con:
            found = con.execute("SELECT stage, n_broken FROM broken_by_stage('e')").fetchall()
        assert found == [("apgd-ce", 2), ("square", 1), ("apgd-t", 2), ("fab-t", 4)]


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("square", "square 8/255"),
        ("square-1000", "square-1000 8/255"),
        ("apgd-ce@norm=L2,eps=0.5", "apgd-ce L2 0.5"),
        ("apgd-t@steps=20,restarts=2", "apgd-t-20x2 8/255"),
        ("cw", "cw L2 0.5"),
        ("fgsm", "fgsm 8/255"),
        ("pgd", "pgd-10 8/255"),
        ("autoattack", "autoattack 8/255"),
        ("sweep@attack=square-50", "sweep square-50 8/255"),
    ],
)
def test_labels_tell_apart_what_differs(text: str, label: str) -> None:
    assert registry.resolve(text).label == label


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("1.5m", 90), ("2h", 7200), (".5d", 43200), ("10s", 10)])
def test_durations(text: str, seconds: float) -> None:
    assert planning.parse_duration(text) == seconds


def test_every_attack_reads_back_from_its_own_word() -> None:
    for entry in registry.entries().values():
        for norm in entry.eps:
            spec = registry.resolve(entry.name, norm=norm)
            assert registry.resolve(registry.inline(spec)) == spec
            assert type(spec).from_dict(spec.to_dict()) == spec
    with pytest.raises((ModelsError, ExplorerError)):
        registry.resolve("pgd@colour=red")
