"""NSGA-Net macro networks, NAS-Bench-201 and NATS-Bench, RobNets: against the original code's counts and logits."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.architectures import definitions, genotypes, nasbench201_space, nsga_macro_space, registry, robnet_space
from models.architectures.definitions import Definition
from models.architectures.nasbench201 import TinyNetwork, size_network, topology_network
from models.architectures.nasbench201_space import Cell201
from models.architectures.nsga_macro import macro_network
from models.architectures.robnet import robnet
from models.errors import InvalidSpec
from models.weights.files import network_tensors

GOLDEN = Path(os.environ.get("NASROB_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))

# Counted on the original code (ianwhale/nsga-net:models/macro_models.py, D-X-Y/AutoDL-Projects:xautodl/models,
# gmh14/RobNets:models/basic_model.py): classes, side of the image, parameters, state_dict keys, multiply-adds, and the
# SHA-256 of the lines "key:AxBxC" in state_dict order.
REFERENCE = {
    "nsganet-macro": (
        (10, 32, 3370250, 242, 1290402560),
        "a741b368df45c171a09bd93ced023eb12dd59f4a9d38be1ae63939195bbf4210",
    ),
    "nsganet-macro@decoder=residual": (
        (10, 32, 3041162, 135, 1162492672),
        "49ba1a528f9ef71959f062498b8145f8613f47bec3ef1d2c6f82d6c4d43a0572",
    ),
    "nsganet-macro@decoder=swapped-residual": (
        (10, 32, 3041162, 135, 1162492672),
        "d4baebb16e95c0454d7fd14762cd832bc46a939563eb333d32d15afa3c669e8e",
    ),
    "nasbench201-best": (
        (10, 32, 1288506, 489, 184730240),
        "738c81da8ac30dda96d29a76ed20e10b37b93d7f85da3c89b5270bf6c23c9a62",
    ),
    "nasbench201_best_cifar10_ResNet-like": (
        (120, 16, 1295656, 489, 46190080),
        "7117853b14e267a85e0751932396166e2875842fe99bde62bbd5173e6e861ed9",
    ),
    "nasbench201-resnet": (
        (10, 32, 559386, 219, 78561920),
        "216f3ffd71473a6b09f94d005cdcefe5d9a83811a5e8d8133fd9df5a047c94cb",
    ),
    "nasbench201-all-conv3x3": (
        (100, 32, 1537396, 579, 220125440),
        "eaba8e0fc8fd259fa3e9ae2485af15d5303f2177b24c2bcb72fbbfa037af8875",
    ),
    "nasbench201-all-skip": (
        (10, 32, 73306, 39, 7783040),
        "4fed1eb554c574325ecc586ddd9b460ab236fd83d21fe8589cc6f914190fe6a4",
    ),
    "nasbench201-all-avgpool": (
        (10, 32, 73306, 39, 7783040),
        "4fed1eb554c574325ecc586ddd9b460ab236fd83d21fe8589cc6f914190fe6a4",
    ),
    "nasbench201-all-none": (
        (100, 32, 79156, 39, 7788800),
        "5b76965e450709d858907471efa6b63fddc4246e28297170714f49c9a7d3f7b7",
    ),
    "nasbench201-0": (
        (120, 16, 136456, 219, 3919360),
        "38fb44478f4b72c629fa335fff26d7ba1a3533c197b9ff0e933ea6cf7b07d49a",
    ),
    "nats-size-largest": (
        (10, 32, 713674, 129, 274399872),
        "75fc20a4a397e1ae000ee7dad598486ed575f88d3f5273506b44d43d2b1687fb",
    ),
    "robnet-large": (
        (10, 32, 6842710, 2830, 1030336128),
        "33a06440305f2aa7f0217127372fbd0bcfe539615bb33463932441c0d7b74a5d",
    ),
    "robnet-large-v2": (
        (10, 32, 33326666, 4624, 5094615040),
        "aeb6156464c1a789fdb9606b5ee3689e015531c465967e985fd7d070aae58752",
    ),
    "robnet-free": (
        (10, 32, 5439790, 2015, 780177024),
        "e94e10564497e07ee827dd9ac439021c87102c014dac59c241a91c0c09d12fe6",
    ),
    "robnet-large@init_channels=48,form=imagenet": (
        (1000, 224, 12756448, 2843, 1412137344),
        "c4b602e93b97d0ac32ad91b3f00ce58b7c8efe286c1e6ba53f0cddac961cef46",
    ),
}


@pytest.mark.parametrize("text", REFERENCE)
def test_counts_and_names_equal_the_original_code(text: str) -> None:
    (classes, side, params, keys, macs), digest = REFERENCE[text]
    with torch.device("meta"):
        network = registry.build(registry.parse_architecture(text), num_classes=classes, in_channels=3).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, side, side))
    lines = [f"{k}:{'x'.join(map(str, v.shape))}" for k, v in network.state_dict().items()]
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()) == (keys, digest)
    assert sum(p.numel() for p in network.parameters()) == params
    assert counter.get_total_flops() == 2 * macs


GENOME = [
    [[1], [0, 0], [0, 1, 0], [0, 1, 1, 1], [1, 0, 0, 1, 1], [0]],
    [[0], [0, 0], [0, 1, 0], [0, 1, 0, 1], [1, 1, 1, 1, 1], [0]],
    [[0], [0, 1], [1, 0, 1], [1, 0, 1, 1], [1, 0, 0, 1, 1], [0]],
]
#: Skip bits, loose ends, and nodes that are left out (1 and 4 of the second phase).
SKIPS = [[[1], [0, 1], [1, 0, 0], [1]], [[0], [0, 1], [0, 0, 0], [1]], [[1], [1, 1], [0]]]
#: The first and third phases are inactive, the first despite its skip bit; node 2 of the second is left out.
INACTIVE = [[[0], [0, 0], [1]], [[0], [1, 0], [0, 0, 1], [1]], [[0], [0, 0], [0]], [[1], [0, 1], [1]]]
PAIRS = [[[1], [0]], [[1], [1]], [[1], [0]]]


def macro(genome: Any, decoder: str, *, doubling: bool = False, growth: int = 4, width: int = 8) -> nn.Module:
    return macro_network(
        init_channels=width,
        decoder=decoder,
        growth=growth,
        doubling=doubling,
        definition={"genome": genome},
        num_classes=10,
        in_channels=3,
    )


def cell_network(cell: str, *, width: int = 4, cells: int = 2) -> nn.Module:
    return topology_network(
        init_channels=width, cells_per_stage=cells, definition={"cell": cell}, num_classes=10, in_channels=3
    )


def sized(widths: str) -> nn.Module:
    return size_network(definition={"widths": widths}, num_classes=10, in_channels=3)


def codes(name: str) -> dict[str, Any]:
    definition = registry.find(name).definition
    assert definition is not None
    return definition.data


def rob(name: str, layers: int, *, width: int = 4, form: str = "cifar") -> nn.Module:
    return robnet(init_channels=width, layers=layers, form=form, definition=codes(name), num_classes=10, in_channels=3)


def numbers(*shape: int, salt: int) -> Tensor:
    """Numbers in [-1, 1) that look random, the same everywhere: the low bits of a mixed counter."""
    mask = 2**32 - 1
    mixed = (torch.arange(torch.Size(shape).numel()) + 1_000_003 * salt + 1) * 2_654_435_761 & mask
    mixed = (mixed ^ mixed >> 15) * 2_246_822_519 & mask
    return ((mixed ^ mixed >> 13) & 0xFFFF).double().div(32768).sub(1).reshape(shape)


def fill(network: nn.Module, side: int) -> nn.Module:
    """Every weight by formula, BatchNorm statistics from four images by formula; in double precision."""
    network.double()
    for position, (key, tensor) in enumerate(network.state_dict().items()):
        if tensor.is_floating_point() and "running" not in key:
            values = numbers(*tensor.shape, salt=position)
            if tensor.dim() > 1:
                values *= (6 / tensor[0].numel()) ** 0.5
            elif key.endswith("weight"):
                values = 1 + values / 2
            tensor.copy_(values)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(numbers(4, 3, side, side, salt=998))
    return network.eval()


# The first four logits of the first image, and the sum over the absolute gradient of both images' first logits to the
# input, computed in double precision with the original code, filled by the same formula:
# ianwhale/nsga-net:models/macro_models.py (growth set to 4), D-X-Y/AutoDL-Projects:xautodl/models/cell_infers and
# shape_infers, gmh14/RobNets:models/basic_model.py.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, list[float], float]] = {
    "macro dense": (
        lambda: macro(GENOME, "dense"),
        32,
        [-0.704652, 0.505084, -0.193555, -0.268431],
        302.850137,
    ),
    "macro dense, skips, widths doubling": (
        lambda: macro(SKIPS, "dense", doubling=True),
        32,
        [-1.162278, -0.088103, -0.740907, 0.213262],
        405.511279,
    ),
    "macro residual, skips": (
        lambda: macro(SKIPS, "residual"),
        32,
        [-1.053866, 0.549549, -0.997969, -0.429513],
        116.085557,
    ),
    "macro dense, inactive phase": (
        lambda: macro(INACTIVE, "dense"),
        32,
        [-2.255122, 0.887372, 1.115559, 0.059457],
        47.016885,
    ),
    "macro swapped residual, inactive phase": (
        lambda: macro(INACTIVE, "swapped-residual"),
        32,
        [0.110128, 0.175479, -1.079431, 1.044777],
        22.498005,
    ),
    "macro residual, two nodes a phase": (
        lambda: macro(PAIRS, "residual", doubling=True),
        32,
        [0.867242, -0.377562, -1.181863, -0.274305],
        92.238875,
    ),
    "nasbench201 0": (
        lambda: cell_network(str(nasbench201_space.by_index(0))),
        32,
        [-0.611917, 1.650967, 1.674721, 0.598182],
        42.193264,
    ),
    "nasbench201 123": (
        lambda: cell_network(str(nasbench201_space.by_index(123))),
        32,
        [-0.467653, 1.556773, 1.525914, 0.55927],
        78.731686,
    ),
    "nasbench201 9930": (
        lambda: cell_network(str(nasbench201_space.by_index(9930))),
        32,
        [0.754735, -0.88334, 0.570438, -1.373412],
        46.595206,
    ),
    "nasbench201 none": (
        lambda: cell_network("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"),
        32,
        [-0.105024, -0.842862, 0.591249, -0.179547],
        0.0,
    ),
    "nats size, growing": (
        lambda: sized("8:16:24:32:64"),
        32,
        [0.482358, 0.947042, -1.249361, 0.310192],
        35.579248,
    ),
    "nats size, up and down": (
        lambda: sized("24:8:16:8:40"),
        32,
        [0.399941, 0.338975, -0.678822, 1.02615],
        33.077818,
    ),
    "robnet free, seven layers": (
        lambda: rob("robnet-free", 7),
        32,
        [-0.457877, -0.038388, -0.091253, -0.678587],
        780.65347,
    ),
    "robnet large, four layers": (
        lambda: rob("robnet-large", 4),
        32,
        [-0.077813, -0.336879, -1.313888, 0.012653],
        535.826222,
    ),
    "robnet large, imagenet": (
        lambda: rob("robnet-large", 3, width=2, form="imagenet"),
        224,
        [-0.075774, 0.202487, -2.181348, 0.089902],
        1729.124956,
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradient_equal_the_original_code(name: str) -> None:
    make, side, expected, gradient_sum = NETWORKS[name]
    network = fill(make(), side)
    x = numbers(2, 3, side, side, salt=999).requires_grad_()
    logits = network(x)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
    assert logits[0, :4].tolist() == pytest.approx(expected, abs=2e-6)
    assert gradient.abs().sum().item() == pytest.approx(gradient_sum, rel=1e-6, abs=2e-6)


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the reference weights are not here (NASROB_GOLDEN)")
@pytest.mark.parametrize(
    "name",
    [
        "nsga_macro_NSGANet_dense_16",
        "nsga_macro_chain4_residual_16",
        "nasbench201_a_C4_N1",
        "robnet_large_v1_C4_L5",
    ],
)
def test_reference_weights_give_the_reference_logits_and_gradients(name: str) -> None:
    golden = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    meta = json.loads(golden["meta_json"])
    if "genome" in meta:
        network = macro(meta["genome"], meta["decoder"], growth=meta["dense_growth_t"], width=meta["channels"][0][1])
    elif "arch_str" in meta:
        network = cell_network(meta["arch_str"], width=meta["C"], cells=meta["N"])
    else:
        network = rob("robnet-large", meta["layers"], width=meta["C"])
    network.load_state_dict(
        {k: v.float() if v.is_floating_point() else v for k, v in golden["state_dict"].items()}, strict=True
    )
    x = golden["input"].float().requires_grad_()
    logits = network.eval()(x)
    assert torch.allclose(logits, golden["logits"], atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, golden["labels"]), x)
    assert torch.allclose(gradient, golden["input_grad"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 33, 47)])
@pytest.mark.parametrize(
    "text",
    [
        "nsganet-macro",
        "nsganet-macro@decoder=swapped-residual,doubling=true",
        "nasbench201-best",
        "nats-size-largest",
        "robnet-free",
        "robnet-large@form=imagenet",
    ],
)
def test_image_sizes(text: str, size: tuple[int, int, int]) -> None:
    network = registry.build(registry.parse_architecture(text, scale="small"), num_classes=7, in_channels=size[0])
    x = torch.rand(2, *size, requires_grad=True)
    logits = network.eval()(x)
    assert logits.shape == (2, 7)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any()


class TestMacro:
    def test_published_genome_is_repaired_as_published(self) -> None:
        """The dependency graphs that ianwhale/nsga-net:models/macro_decoder.py makes of its genome."""
        assert [dict(g) for g in nsga_macro_space.repair(nsga_macro_space.parse(GENOME))] == [
            {1: (0,), 2: (1,), 3: (0,), 4: (2,), 5: (2, 3, 4), 6: (1, 4, 5), 7: (6,)},
            {1: (0,), 2: (0,), 3: (0,), 4: (2,), 5: (2, 4), 6: (1, 2, 3, 4, 5), 7: (6,)},
            {1: (0,), 2: (0,), 3: (2,), 4: (1, 3), 5: (1, 3, 4), 6: (1, 4, 5), 7: (6,)},
        ]
        assert registry.find("nsganet-macro").definition == Definition("nsga-macro", {"genome": GENOME})

    def test_loose_ends_are_tied_and_idle_nodes_and_phases_left_out(self) -> None:
        first, second, last = nsga_macro_space.repair(nsga_macro_space.parse([*INACTIVE, PAIRS[1]]))
        assert first == {1: (0,), 3: (1,), 4: (3,), 5: (0, 4)}
        assert second == {1: (0,), 2: (1,), 3: (2,), 4: (0, 3)}
        assert last == {1: (0,), 2: (1,), 3: (0, 2)}

    def test_lists_round_trip(self) -> None:
        for genome in (GENOME, SKIPS, INACTIVE, PAIRS):
            assert nsga_macro_space.parse(genome).to_lists() == genome

    def test_genome_without_an_active_phase_is_a_linear_classifier_of_mean_colours(self) -> None:
        network = macro([[[0], [1]], [[0], [0, 0], [0]]], "dense")
        assert list(network.state_dict()) == ["linear.weight", "linear.bias"]
        x = torch.rand(2, 3, 8, 8)
        weight, bias = network.state_dict().values()
        assert torch.allclose(network(x), x.mean((2, 3)) @ weight.T + bias, atol=1e-6)

    def test_small_images_survive_many_phases(self) -> None:
        assert macro(PAIRS + PAIRS, "dense").eval()(torch.rand(2, 3, 8, 8)).shape == (2, 10)

    def test_the_tensor_with_two_names_is_one_and_survives_the_file(self) -> None:
        network = macro(SKIPS, "dense")
        state = network.state_dict()
        assert state["model.0.last_conv.weight"].data_ptr() == state["model.0.out.0.weight"].data_ptr()
        twin = macro(SKIPS, "dense")
        twin.load_state_dict(load(save(network_tensors(network))), strict=True)
        x = torch.rand(2, 3, 16, 16)
        assert torch.equal(twin.eval()(x), network.eval()(x))

    @pytest.mark.parametrize(
        "genome",
        [
            None,
            [],
            "10",
            [[]],
            [1],
            [[[1]], 1],
            [[[1], [1, 0]]],
            [[[2], [1]]],
            [[[True], [1]]],
            [[[1], ["0", "1"], [1]]],
            [[[1], [1]]] * 9,
            [[[1] * i for i in range(1, 40)] + [[1]]],
        ],
    )
    def test_anything_else_is_refused(self, genome: Any) -> None:
        with pytest.raises(InvalidSpec, match=r"genome"):
            nsga_macro_space.parse(genome)

    @pytest.mark.parametrize("extra", [{"decoder": "residual"}, {"channels": [[3, 32]]}])
    def test_what_is_an_option_is_not_ignored_in_a_definition(self, extra: dict[str, Any]) -> None:
        with pytest.raises(InvalidSpec, match="is an option"):
            nsga_macro_space.check({"genome": GENOME, **extra})
        with pytest.raises(InvalidSpec, match="needs a 'genome'"):
            nsga_macro_space.check({})


class TestCells201:
    def test_string_to_cell_to_string_is_the_identity_over_the_whole_space(self) -> None:
        cells = nasbench201_space.all_cells()
        texts = [nasbench201_space.to_string(cell) for cell in cells]
        assert len(set(texts)) == len(texts) == nasbench201_space.SPACE_SIZE == 15_625
        assert [nasbench201_space.parse(text) for text in texts] == cells
        assert [nasbench201_space.index_of(text) for text in texts] == list(range(15_625))
        assert [nasbench201_space.by_index(index) for index in range(0, 15_625, 7)] == cells[::7]

    @pytest.mark.parametrize(
        ("index", "text"),
        [
            (
                0,
                "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|",
            ),
            (9, "|avg_pool_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"),
            (
                123,
                "|avg_pool_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
            ),
            (
                9930,
                "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|",
            ),
        ],
    )
    def test_indices_are_the_benchmarks(self, index: int, text: str) -> None:
        """Stated in D-X-Y/AutoDL-Projects: exps/NATS-Bench/main-tss.py (0, 9, 123) and main-sss.py (9930)."""
        assert str(nasbench201_space.by_index(index)) == text
        assert nasbench201_space.index_of(text) == index

    def test_numbering_and_sampling_leave_the_global_random_numbers_alone(self) -> None:
        random.seed(1)
        before = random.getstate()
        nasbench201_space._order.cache_clear()
        nasbench201_space.by_index(3)
        nasbench201_space.sample(3)
        assert random.getstate() == before

    def test_number_of_topologies_is_the_papers(self) -> None:
        """6 466 up to isomorphism (Dong and Yang, ICLR 2020, section 2.1)."""
        assert len({nasbench201_space.canonical(cell) for cell in nasbench201_space.all_cells()}) == 6_466

    def test_cells_of_one_topology_compute_the_same(self) -> None:
        texts = (
            "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|",
            "|skip_connect~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|none~0|none~1|avg_pool_3x3~2|",
        )
        first, second = (nasbench201_space.parse(text) for text in texts)
        assert nasbench201_space.canonical(first) == nasbench201_space.canonical(second)
        one, other = (cell_network(text).eval() for text in texts)
        values = list(one.state_dict().values())
        other.load_state_dict(dict(zip(other.state_dict(), values, strict=True)))
        x = torch.rand(2, 3, 16, 16)
        assert torch.allclose(one(x), other(x), atol=1e-6)

    def test_samples_are_uniform_over_the_operations(self) -> None:
        drawn = [nasbench201_space.parse(nasbench201_space.sample(seed)) for seed in range(500)]
        assert drawn[7] == nasbench201_space.parse(nasbench201_space.sample(7))
        expected = 500 * 6 / 5
        counts = [sum(cell.operations.count(op) for cell in drawn) for op in nasbench201_space.OPERATIONS]
        assert sum((n - expected) ** 2 / expected for n in counts) < 18.5, "chi-squared, 4 df, 0.1 %"

    def test_aliases_say_the_right_index(self) -> None:
        for entry in registry.entries().values():
            for alias in entry.aliases:
                if alias.startswith("nasbench201-") and alias.removeprefix("nasbench201-").isdigit():
                    assert entry.definition is not None
                    index = nasbench201_space.index_of(entry.definition.data["cell"])
                    assert alias == f"nasbench201-{index}", entry.name

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "|nor_conv_3x3~0|",
            "|nor_conv_3x3~0|+|nor_conv_3x3~1|+|skip_connect~0|skip_connect~2|",
            "|none~0|+|none~1|none~0|+|none~0|none~1|none~2|",
            "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|+|none~0|none~1|none~2|none~3|",
            "|none~0|+|none~0|none~1|+|none~0|none~1|sep_conv_3x3~2|",
            "|none~0|+|none~0|none~1|+|none~0|none~1||",
            "none",
        ],
    )
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidSpec, match="NAS-Bench-201"):
            nasbench201_space.parse(text)

    @pytest.mark.parametrize("index", [-1, 15_625])
    def test_there_is_no_cell_beyond_the_last(self, index: int) -> None:
        with pytest.raises(InvalidSpec, match="0 to 15624"):
            nasbench201_space.by_index(index)

    def test_widths(self) -> None:
        """Counted as exps/NATS-Bench/main-sss.py does, the first width slowest."""
        assert nasbench201_space.widths_by_index(0) == (8, 8, 8, 8, 8)
        assert nasbench201_space.widths_by_index(1) == (8, 8, 8, 8, 16)
        assert nasbench201_space.widths_by_index(32_767) == (64, 64, 64, 64, 64)
        assert nasbench201_space.parse_widths(" 8:16:24:32:64") == (8, 16, 24, 32, 64)
        for text in ("8:16:24:32", "8:16:24:32:0", "8:16:24:32:x", "8:16:24:32:1025", ""):
            with pytest.raises(InvalidSpec):
                nasbench201_space.parse_widths(text)
        with pytest.raises(InvalidSpec, match="0 to 32767"):
            nasbench201_space.widths_by_index(32_768)

    @pytest.mark.parametrize("operation", nasbench201_space.OPERATIONS)
    def test_every_operation_changes_the_width_where_it_must(self, operation: str) -> None:
        network = TinyNetwork(Cell201((operation,) * 6), widths=(4, 8, 6, 4, 10), num_classes=3)
        assert network.eval()(torch.rand(2, 3, 16, 16)).shape == (2, 3)

    @pytest.mark.parametrize(
        ("build", "words"), [(topology_network, "needs a 'cell'"), (size_network, "needs 'widths'")]
    )
    def test_definitions_are_checked(self, build: Callable[..., nn.Module], words: str) -> None:
        options = {"init_channels": 4, "cells_per_stage": 1} if build is topology_network else {}
        with pytest.raises(InvalidSpec, match=words):
            build(**options, definition={}, num_classes=10, in_channels=3)


class TestAsPeopleHaveThem:
    """Definitions pasted without the space they are of."""

    @pytest.fixture(autouse=True)
    def _home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NASROB_HOME", str(tmp_path))

    @pytest.mark.parametrize(
        "write",
        [
            lambda cells: json.dumps(cells),
            lambda cells: repr(cells),
            lambda cells: f"robnet_mine = {cells!r}",
            lambda cells: json.dumps({"codes": cells, "source": "mine"}),
            lambda cells: json.dumps({"genotype": cells}),
            lambda cells: repr({"genotype": tuple(map(tuple, cells))}),
        ],
    )
    def test_robnet(self, write: Callable[[Any], str]) -> None:
        cells = codes("robnet-free")["codes"][4:11]
        found = definitions.read(write(cells))
        assert found.to_dict() == {"space": "robnet", "data": {"codes": cells}}

    def test_one_cell_of_robnet_is_all_layers(self) -> None:
        cell = codes("robnet-free")["codes"][3]
        for text in (json.dumps(cell), json.dumps([cell])):
            spec = registry.parse_architecture(text)
            assert spec.canonical.endswith("@init_channels=36,layers=20")

    def test_a_robnet_has_as_many_layers_as_cells(self) -> None:
        cells = codes("robnet-free")["codes"] + codes("robnet-large")["codes"]
        for number, small in ((7, 5), (3, 3), (21, 5)):
            name = registry.find(json.dumps(cells[-number:])).name
            assert registry.parse_architecture(name).option("layers") == number
            assert registry.parse_architecture(name, scale="large").option("layers") == number
            assert registry.parse_architecture(name, scale="small").option("layers") == small
            assert registry.parse_architecture(name, {"layers": "2"}).option("layers") == 2
            with pytest.raises(InvalidSpec, match=f"1 to {number}"):
                registry.parse_architecture(name, {"layers": str(number + 1)})
        network = registry.build(registry.parse_architecture(f"{name}@C=2"), num_classes=10, in_channels=1)
        assert network.eval()(torch.rand(2, 1, 8, 8)).shape == (2, 10)

    @pytest.mark.parametrize("write", [json.dumps, lambda g: f"NSGANet = {g}", lambda g: json.dumps({"genome": g})])
    def test_macro_genomes(self, write: Callable[[Any], str]) -> None:
        assert definitions.read(write(SKIPS)).to_dict() == {"space": "nsga-macro", "data": {"genome": SKIPS}}

    def test_cells_and_widths_of_the_benchmarks(self) -> None:
        cell = str(nasbench201_space.by_index(123))
        assert registry.find(json.dumps({"cell": cell})).name == "nasbench201-123"
        assert registry.find('{"widths": "8:16:24:32:64"}').lineage == "nats-size"

    def test_a_genotype_inside(self) -> None:
        cells = genotypes.sample(4).to_dict()
        assert definitions.read(json.dumps({"genotype": cells})).data == cells

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('{"genome": [[[1], [1]]], "decoder": "dense"}', "it is an option"),
            ('{"codes": [["11"]]}', "list of 14 codes"),
            ('{"layers": 20}', "none of normal .a genotype., net_config .densenas., genome"),
            ("[1, 2]", "that list is no definition"),
            ("[]", "that list is no definition"),
        ],
    )
    def test_what_is_wrong_is_said_of_the_right_space(self, text: str, says: str) -> None:
        with pytest.raises(InvalidSpec, match=says):
            definitions.read(text)


class TestRobNet:
    def test_fewer_layers_take_the_first_cells_and_more_are_refused(self) -> None:
        """As the original, which goes through the list from the front, and fails behind its end."""
        cells = robnet_space.parse(codes("robnet-free")["codes"])
        assert len(cells) == 20
        assert robnet_space.layer_cells(cells, 7) == cells[:7]
        assert robnet_space.layer_cells(cells[:1], 3) == cells[:1] * 3
        with pytest.raises(InvalidSpec, match="layers=20 or fewer"):
            robnet_space.layer_cells(cells, 21)

    def test_large_images_get_the_form_that_was_trained_on_imagenet(self) -> None:
        spec = registry.parse_architecture("robnet-large", scale="large")
        assert spec.canonical == "robnet-large@init_channels=48,layers=20,form=imagenet"

    def test_odd_widths(self) -> None:
        assert rob("robnet-large", 3, width=3).eval()(torch.rand(2, 3, 8, 8)).shape == (2, 10)
        with pytest.raises(InvalidSpec, match="even"):
            rob("robnet-large", 3, width=3, form="imagenet")

    @pytest.mark.parametrize("data", [None, [], ["11"], [["11"] * 13], [["11"] * 13 + ["12"]], [[11] * 14]])
    def test_anything_else_is_refused(self, data: Any) -> None:
        with pytest.raises(InvalidSpec, match=r"RobNet"):
            robnet_space.parse(data)
