"""`nasrob-tui archs` and networks of one's own, from the outside."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.architectures import genotypes

Cli = Callable[..., tuple[int, str, str]]

THEIRS = """
import torch
from torch import nn

def net(hidden=8, num_classes=10):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = net()
    def forward(self, x):
        return {"features": x.flatten(1), "scores": self.body(x)}

def pair():
    return Pair()

print("their module talks")

def narrow():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10))

def loud():
    print("their factory talks")
    return net()

def leaving():
    raise SystemExit(7)

class Scaled(nn.Sequential):
    scale = -1
    def forward(self, x):
        return self.scale * super().forward(x)

def negated():
    return Scaled(*net())

def scaled(scale=1):
    network = Scaled(*net())
    network.scale = scale
    return network

class Leaving(nn.Sequential):
    def forward(self, x):
        raise SystemExit(3)

def leaving_later():
    return Leaving(*net())

class Detached(nn.Sequential):
    def forward(self, x):
        with torch.no_grad():
            return super().forward(x)

def detached():
    return Detached(*net())

def random(num_classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "their_models.py").write_text(THEIRS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "their_models", raising=False)
    return "their_models"


def shown(cli: Cli, *words: str) -> dict[str, Any]:
    code, out, err = cli("archs", "show", *words, "--format", "json")
    assert code == 0, err
    page: dict[str, Any] = json.loads(out)
    return page


class TestShow:
    def test_counts_are_those_of_the_reference(self, cli: Cli) -> None:
        page = shown(cli, "darts", "--set", "init_channels=36", "--set", "layers=20")
        assert (page["params"], page["params_with_aux"], page["n_state_dict_keys"], page["macs"]) == (
            3_349_342, 3_825_768, 1636, 528_359_040,
        )  # fmt: skip
        assert page["state_dict_sha256_sorted"].startswith("5e5c6f6c35349bc5")

    def test_large_images_take_the_imagenet_form(self, cli: Cli) -> None:
        page = shown(cli, "DARTS_V2", "--input-size", "224", "--num-classes", "1000")
        assert page["architecture"] == "darts@init_channels=48,layers=14,form=imagenet"
        assert (page["params"], page["params_with_aux"], page["n_state_dict_keys"]) == (4_718_752, 5_979_528, 1115)

    def test_the_page_for_people_draws_the_cells(self, cli: Cli) -> None:
        code, out, _ = cli("archs", "show", "darts-random-3@init_channels=4,layers=3")
        assert code == 0
        assert "normal cell" in out
        assert "reduction cell" in out
        assert "c_{k-2}" in out

    def test_csv_has_one_row(self, cli: Cli) -> None:
        code, out, _ = cli("archs", "show", "resnet18@width=8", "--format", "csv")
        assert code == 0
        assert len(out.splitlines()) == 2

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("dart",), "Did you mean 'darts'"),
            (("darts", "--set", "layers=0"), "must be 1 to 200"),
            (("darts", "--set", "depth=3"), "unknown option of darts"),
            (("darts", "--set", "form=imagenet"), "--input-size 224"),
            (("darts-random-x",), "needs a seed"),
            (("nasbench201-15625",), "15624"),
            (("|nor_conv_3x3~0|",), "|"),
            (("Genotype(normal=[('sep_conv_9x9', 0)])",), "nasrob-tui: "),
            (("file:/nowhere",), "cannot read the definition"),
            (("densenas-r1",), "net_config"),
            (("no_such_package_here:net",), "cannot import"),
            (("./my_net.py:factory",), "write my_net:factory"),
            (("darts@layers=8", "--set", "layers=9"), "two values of layers"),
            (("mnasnet1_0",), "write torchvision:mnasnet1_0"),
            (("random_seed0",), "darts-random-0"),
            (("file:/dev/zero",), "/dev/zero is no text"),
        ],
    )
    def test_a_mistake_gets_one_sentence(self, cli: Cli, words: tuple[str, ...], says: str) -> None:
        code, out, err = cli("archs", "show", *words)
        assert (code, out) == (2, "")
        assert says in err
        assert "Traceback" not in err
        assert len(err.strip().splitlines()) == 1

    def test_options_by_their_short_names(self, cli: Cli) -> None:
        page = shown(cli, "darts", "--set", "C=4", "--set", "L=3", "--set", "se=yes")
        assert page["architecture"] == "darts@init_channels=4,layers=3,squeeze_excitation=true"

    def test_a_network_of_ones_own_is_counted_for_what_its_weights_were_made_for(
        self, cli: Cli, theirs: str, tmp_path: Path
    ) -> None:
        import torch
        from torch import nn

        def refused() -> None:
            code, _, err = cli("archs", "show", f"{theirs}:narrow")
            assert code == 2
            assert "cannot take images of 3 x 32 x 32" in err
            assert "Say what it takes with --in-channels and --input-size." in err

        refused()
        for seed in (0, 1):
            torch.manual_seed(seed)
            path = tmp_path / f"w{seed}.pt"
            torch.save(nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 10)).state_dict(), path)
            words = ("--arch", f"{theirs}:narrow", "--dataset", "digits", "--no-measure")
            code, _, err = cli("weights", "add", str(path), *words)
            assert code == 0, err
        page = shown(cli, f"{theirs}:narrow")
        assert (page["in_channels"], page["input_size"], page["num_classes"]) == (1, 8, 10)
        assert (page["params"], page["macs"]) == (4 * 9 + 4 + 144 * 10 + 10, 4 * 9 * 36 + 144 * 10)
        assert "for 1x8x8, 10 classes" in cli("archs", "show", f"{theirs}:narrow")[1]
        code, _, err = cli("archs", "show", f"{theirs}:narrow", "--input-size", "9")
        assert code == 2
        assert "1 x 9 x 9" in err
        # Weights for two datasets say nothing.
        code, _, err = cli("weights", "add", str(path), *words[:-2], "mnist", "--no-measure", "--name", "other")
        assert code == 0, err
        refused()

    def test_the_size_of_a_known_architecture_does_not_depend_on_what_was_trained(
        self, cli: Cli, home_with_weights: Path
    ) -> None:
        page = shown(cli, "resnet18")
        assert page["weights"]
        assert (page["in_channels"], page["input_size"]) == (3, 32)


class TestDefinitions:
    def test_a_pasted_genotype_has_a_name_that_stays(self, cli: Cli, home: Path) -> None:
        text = str(genotypes.sample(5)).replace("reduce_concat=[2, 3, 4, 5]", "reduce_concat=[2, 3, 5]")
        name = shown(cli, text, "--set", "init_channels=4", "--set", "layers=3")["name"]
        assert name.startswith("darts-cell-")
        assert shown(cli, name)["definition"]["data"]["reduce_concat"] == [2, 3, 5]
        code, out, _ = cli("archs", "add", text, "--format", "json")
        assert code == 0
        assert json.loads(out)[0]["name"] == name

    def test_a_genotype_by_name_and_by_text_is_the_same_network(self, cli: Cli) -> None:
        text = str(genotypes.Genotype.from_dict(genotypes.published()["NSGANet_micro"]))
        assert shown(cli, text)["architecture"] == shown(cli, "NSGANet_micro")["architecture"]

    def test_a_published_genotype_is_recognised(self, cli: Cli) -> None:
        published = str(genotypes.Genotype.from_dict(genotypes.published()["PDARTS"]))
        assert shown(cli, published)["name"] == "pdarts"

    def test_a_file_is_read(self, cli: Cli, tmp_path: Path) -> None:
        path = tmp_path / "net_config"
        path.write_text(
            "[[8, 8], 'mbconv_k3_t1', [], 0, 1]|[[8, 16], 'mbconv_k3_t3', ['mbconv_k3_t3'], 1, 2]|[[16, 32], 'conv1_1']"
            "\nnet_type: mbv2\n",
            encoding="utf-8",
        )
        assert shown(cli, f"file:{path}", "--input-size", "64")["name"].startswith("densenas-")

    def test_a_cell_of_nasbench201_is_its_index(self, cli: Cli) -> None:
        cell = "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|"
        assert shown(cli, cell)["name"] == "nasbench201-0"
        assert shown(cli, "nasbench201-0")["definition"]["data"]["cell"] == cell

    def test_a_damaged_definition_is_refused(self, cli: Cli, home: Path) -> None:
        name = shown(cli, str(genotypes.sample(6)).replace("[2, 3, 4, 5]", "[3, 4, 5]"))["name"]
        (home / "definitions" / f"{name}.json").write_text("{}", encoding="utf-8")
        code, _, err = cli("archs", "show", name)
        assert code == 2
        assert "damaged" in err

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (bytes(range(256)) * 40_000, "what comes from stdin is no text"),
            (b"\0" * 9_000_000, "what comes from stdin is no text"),
            (b"[" * 9_000_000, "what comes from stdin is too large"),
            (b"[" * 3000, "genotype does not parse"),
            (b"", "what comes from stdin is empty"),
            (b"two\nlines", "neither a definition nor the name"),
        ],
        ids=["binary", "zeros", "large", "deep", "empty", "text"],
    )
    def test_stdin_is_read_with_care(
        self, cli: Cli, monkeypatch: pytest.MonkeyPatch, content: bytes, says: str
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        code, out, err = cli("archs", "add", "-")
        assert (code, out) == (2, "")
        assert says in err
        assert len(err) < 200

    def test_a_definition_from_stdin(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        text = str(genotypes.sample(5)).replace("reduce_concat=[2, 3, 4, 5]", "reduce_concat=[2, 3, 5]")
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"MINE = {text}\n".encode())))
        code, out, _ = cli("archs", "add", "-", "--format", "json")
        assert code == 0
        assert json.loads(out)[0]["name"] == shown(cli, text)["name"]


class TestSample:
    def test_bounds_are_kept_and_names_say_the_seed(self, cli: Cli) -> None:
        words = ("archs", "sample", "--count", "2", "--min-params", "16k", "--max-params", "18k", "--format", "json")
        small = ("--set", "init_channels=4", "--set", "layers=5")
        code, out, err = cli(*words, *small)
        assert code == 0
        rows = json.loads(out)
        assert len(rows) == 2
        assert all(16_000 <= row["params"] <= 18_000 for row in rows)
        assert all(row["name"] == f"darts-random-{row['seed']}" for row in rows)
        assert "1,076,746,950,455,072,400" in err
        assert json.loads(cli(*words, *small)[1]) == rows

    def test_nasbench201(self, cli: Cli) -> None:
        code, out, err = cli("archs", "sample", "--space", "nasbench201", "--seed", "4", "--format", "json")
        assert code == 0
        assert json.loads(out)[0]["name"] == "nasbench201-random-4"
        assert "15,625" in err

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("--space", "moon"), "darts or nasbench201"),
            (("--min-params", "3M", "--max-params", "2M"), "above"),
            (("--min-params", "many"), "2.5M"),
        ],
    )
    def test_bad_bounds(self, cli: Cli, words: tuple[str, ...], says: str) -> None:
        code, _, err = cli("archs", "sample", *words)
        assert code == 2
        assert says in err


class TestCompare:
    def test_edges(self, cli: Cli) -> None:
        code, out, _ = cli("archs", "compare", "darts-v1", "darts")
        assert code == 0
        assert "11 of 16 edges equal" in out
        code, out, _ = cli("archs", "compare", "darts-v1", "darts", "--format", "json")
        assert code == 0
        assert json.loads(out)


class TestListing:
    def test_everything_is_there_for_programs(self, cli: Cli) -> None:
        code, out, _ = cli("archs", "--format", "json")
        assert code == 0
        names = {row["name"] for row in json.loads(out)}
        assert {"darts", "resnet18", "advrush", "torchvision:resnet50", "proxyless-cifar", "robnet-free"} <= names
        assert len(names) > 300

    def test_the_table_is_short_and_says_that_there_is_more(self, cli: Cli) -> None:
        code, out, err = cli("archs")
        assert code == 0
        assert "advrush" not in out
        assert "--all" in err
        assert "advrush" in cli("archs", "--search", "advrush")[1]

    def test_what_is_always_the_same_stays_out_of_the_table(self, cli: Cli) -> None:
        code, out, _ = cli("archs", "pdarts")
        assert code == 0
        assert "init_channels=36, layers=20" in out
        assert "auxiliary_head" not in out
        assert "auxiliary_head" in json.loads(cli("archs", "pdarts", "--format", "json")[1])[0]["options"]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("--family", "foo"), "there is no family 'foo'. The short list has ensemble, handcrafted, nas."),
            (("--lineage", "resnt"), "Did you mean 'resnet'"),
            (("--lineage", "foo", "--format", "json"), "The short list has amoebanet, darts, "),
        ],
    )
    def test_a_family_that_is_none_is_refused(self, cli: Cli, words: tuple[str, ...], says: str) -> None:
        code, out, err = cli("archs", *words)
        assert (code, out) == (2, "")
        assert says in err

    @pytest.mark.parametrize("words", [("--family", "Hand-Crafted"), ("--lineage", "PC_DARTS"), ("--lineage", "vit")])
    def test_families_are_known_in_any_spelling(self, cli: Cli, words: tuple[str, str]) -> None:
        rows = json.loads(cli("archs", *words, "--format", "json")[1])
        assert rows
        assert len({row[words[0][2:]] for row in rows}) == 1


class TestBringYourOwn:
    def evaluate(self, cli: Cli, *words: str) -> tuple[int, str, str]:
        more = ("--dataset", "digits", "--attack", "fgsm", "--examples", "40", "--threads", "1", "--format", "json")
        return cli("eval", "--headless", *words, *more)

    def test_a_factory_with_a_file_of_weights(self, cli: Cli, theirs: str, tmp_path: Path) -> None:
        import torch
        from torch import nn

        torch.manual_seed(1)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
        torch.save({"state_dict": network.state_dict()}, tmp_path / "w.pt")
        words = ("--arch", f"{theirs}:net", "--set", "hidden=12", "--weights", "w.pt", "--mean", "0.3", "--std", "0.4")
        code, out, err = self.evaluate(cli, *words)
        assert code == 0, err
        row = json.loads(out)[0]
        assert row["architecture_id"] == "their_models:net@hidden=12"
        assert row["params"] == 64 * 12 + 12 + 12 * 10 + 10
        assert row["preprocessing"] == {"mean": [0.3], "std": [0.4]}

    def test_a_factory_that_returns_its_weights(self, cli: Cli, theirs: str) -> None:
        code, out, err = self.evaluate(cli, "--arch", f"{theirs}:net")
        assert code == 0, err
        again = self.evaluate(cli, "--arch", f"{theirs}:net")
        assert json.loads(again[1])[0]["evaluation_id"] == json.loads(out)[0]["evaluation_id"]

    def test_what_their_code_prints_is_not_data(self, cli: Cli, theirs: str) -> None:
        code, out, err = self.evaluate(cli, "--arch", f"{theirs}:loud")
        assert code == 0, err
        assert json.loads(out)
        assert "their factory talks" in err

    def test_code_that_leaves_does_not_take_us_along(self, cli: Cli, theirs: str) -> None:
        code, _, err = self.evaluate(cli, "--arch", f"{theirs}:leaving")
        assert code == 2
        assert "SystemExit" in err

    def test_the_same_tensors_in_another_network_are_another_model(self, cli: Cli, theirs: str) -> None:
        """Layers without tensors decide what tensors compute; one network's results never stand for the other's."""
        from explorer import settings
        from explorer.results import Results
        from explorer.tradeoff import Question

        first = json.loads(self.evaluate(cli, "--arch", f"{theirs}:net")[1])[0]
        code, out, err = self.evaluate(cli, "--arch", f"{theirs}:negated")
        assert code == 0, err
        other = json.loads(out)[0]
        assert other["model_sha256"] == first["model_sha256"]
        assert other["evaluation_id"] != first["evaluation_id"]
        assert other["clean_accuracy"] != first["clean_accuracy"]
        # Each is answered from the store with its own figures.
        for name, row in (("net", first), ("negated", other)):
            assert json.loads(self.evaluate(cli, "--arch", f"{theirs}:{name}")[1]) == [row]
        query = "SELECT architecture_id, clean_accuracy FROM tradeoff WHERE source = 'measured' ORDER BY 1"
        stored = json.loads(cli("sql", query, "--format", "json")[1])
        assert stored == [
            {"architecture_id": f"{theirs}:{name}", "clean_accuracy": row["clean_accuracy"]}
            for name, row in (("negated", other), ("net", first))
        ]
        results = Results(settings.load().store)
        results.refresh()
        rows = [row for row in results.page(Question()).table.to_pylist() if row["source"] == "measured"]
        assert sorted(row["clean_accuracy"] for row in rows) == sorted(r["clean_accuracy"] for r in (first, other))
        details = results.details([first["evaluation_id"], other["evaluation_id"]])
        assert sorted(row["architecture_id"] for row in details) == [f"{theirs}:negated", f"{theirs}:net"]
        results.close()
        for name, row in (("net", first), ("negated", other)):
            page = shown(cli, f"{theirs}:{name}", "--input-size", "8", "--in-channels", "1")
            assert [r["clean_accuracy"] for r in page["evaluations"]] == [row["clean_accuracy"]]

    def test_options_that_change_no_tensor_keep_rows_apart(self, cli: Cli, theirs: str) -> None:
        """One name, the same tensors, the same predictions, two attacks on each: two rows of the pivot, not one."""
        from explorer import settings
        from explorer.results import Results
        from explorer.tradeoff import Question

        found = {}
        for scale in (1, 10_000):
            words = ("--arch", f"{theirs}:scaled@scale={scale}", "--attack", "pgd-2")
            code, out, err = self.evaluate(cli, *words)
            assert code == 0, err
            fgsm, pgd = sorted(json.loads(out), key=lambda row: row["attack"]["name"])
            found[scale] = (fgsm["clean_accuracy"], fgsm["robust_accuracy"], pgd["robust_accuracy"])
        assert found[1][0] == found[10_000][0]
        assert found[1] != found[10_000], "saturated, its gradients vanish"
        results = Results(settings.load().store)
        results.refresh()
        rows = [row for row in results.page(Question()).table.to_pylist() if row["source"] == "measured"]
        results.close()
        columns = ("clean_accuracy", *sorted(c for c in rows[0] if c[0] == "a" and c[1:].isdigit()))
        assert sorted(tuple(row[c] for c in columns if row[c] is not None) for row in rows) == sorted(found.values())

    def test_a_forward_that_leaves_is_a_failed_run(self, cli: Cli, theirs: str) -> None:
        code, _, err = self.evaluate(cli, "--arch", f"{theirs}:leaving_later")
        assert code == 1
        assert "SystemExit" in err

    def test_the_command_that_reproduces_a_row_says_the_normalisation(self, cli: Cli, theirs: str) -> None:
        from explorer import settings
        from explorer.jobs import planning

        words = {"architectures": (f"{theirs}:net",), "attacks": ("fgsm",), "mean": "0.25", "std": "1/2"}
        (request,) = planning.plan(planning.Asked(**words), settings.load())
        assert "--mean 0.25 --std 0.5" in request.command()
        (plain,) = planning.plan(planning.Asked(architectures=(f"{theirs}:net",), attacks=("fgsm",)), settings.load())
        assert "--mean" not in plain.command()

    def test_a_network_without_gradients_is_refused(self, cli: Cli, theirs: str) -> None:
        code, _, err = self.evaluate(cli, "--arch", f"{theirs}:detached")
        assert code != 0
        assert "no gradient" in err

    def test_random_weights_are_refused(self, cli: Cli, theirs: str) -> None:
        code, out, err = self.evaluate(cli, "--arch", f"{theirs}:random")
        assert code != 0
        assert "random" in err
        assert "[]" in out or not out

    def test_outputs_without_logits_are_refused(self, cli: Cli, theirs: str) -> None:
        code, _, err = self.evaluate(cli, "--arch", f"{theirs}:pair")
        assert code != 0
        assert "no logits were recognised" in err

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (("--mean", "0.3"), "together"),
            (("--mean", "a", "--std", "1"), "numbers"),
            (("--mean", "0.1,0.2", "--std", "1"), "channels"),
            (("--mean", "0.1", "--std", "0"), "positive"),
            (("--input-size", "28", "--interpolation", "cubic"), "interpolation"),
            (("--weights", "DEFAULT"), "there is no weights file"),
        ],
    )
    def test_a_mistake_gets_one_sentence(self, cli: Cli, theirs: str, words: tuple[str, ...], says: str) -> None:
        code, _, err = self.evaluate(cli, "--arch", f"{theirs}:net", *words)
        assert code == 2
        assert says in err

    def test_larger_images_are_another_evaluation(self, cli: Cli, home_with_weights: Path) -> None:
        words = ("--arch", "resnet18@width=8")
        plain = json.loads(self.evaluate(cli, *words)[1])[0]
        code, out, err = self.evaluate(cli, *words, "--input-size", "16")
        assert code == 0, err
        larger = json.loads(out)[0]
        assert larger["evaluation_id"] != plain["evaluation_id"]
        assert larger["dataset_id"] != plain["dataset_id"]
