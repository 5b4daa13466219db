"""Presets, ladders, cascades, transfer, precision and budgets of `nasrob-tui eval --headless`."""

from __future__ import annotations

import json
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
