"""ProxylessNAS and DenseNAS against the reference implementations, and their files: read, written, inferred."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.architectures import definitions, densenas_space, proxyless_space, registry
from models.architectures.definitions import shipped
from models.architectures.densenas import densenas
from models.architectures.densenas_inference import infer_net_config
from models.architectures.densenas_space import format_net_config, parse_net_config
from models.architectures.proxyless import proxyless
from models.architectures.proxyless_config import config_from_definition, definition_from_config
from models.errors import InvalidSpec, WeightsError
from models.specs import digest

GOLDEN = Path(os.environ.get("NASROB_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))
needs_golden = pytest.mark.skipif(not GOLDEN.is_dir(), reason="the reference weights are not here (NASROB_GOLDEN)")

# Counted on mit-han-lab/proxylessnas and JaminFong/DenseNAS: classes, image side, parameters, state_dict keys,
# multiply-adds, and the SHA-256 of the lines "key:AxBxC", sorted and in the state dict's order.
REFERENCE = {
    "proxyless-gpu": (
        *(1000, 224, 7119848, 260, 465260160),
        "6e295d4d455cb222ba1224fadd0321cfc52c9fe59f8da8b406358ba4321da70e",
        "fabe8b2792532ece4780abd30f516fb135bade26d87e18d7764c60f0c6d9fb77",
    ),
    "proxyless-cpu": (
        *(1000, 224, 4361648, 368, 439243864),
        "147f17c38cddf3379c66134a6be86398b89cf1c8a5ee65064c7afa70c76e0db4",
        "f06cd8fa57dac7dc603152d7d7435616658b283d95746aee828f4143b5a484f9",
    ),
    "proxyless-mobile": (
        *(1000, 224, 4080512, 368, 320427584),
        "83c11a943d34869433b0d85117a76298ce58d0790d2e4bfc03495f899450e38a",
        "999a40e68edd54171c62ca4bdc7dbf57fd90569acd2d44774db1eb4efe3a7958",
    ),
    "proxyless-mobile-14": (
        *(1000, 224, 6857568, 368, 580883408),
        "16367b2940f98fa97ac511fa1c9cd15890e9ee4df6aa9a6c12ba8c4849e38fb5",
        "df304120acb5fbfb00bcc2e62f58704a672a263300452451fda44bdc3347f928",
    ),
    "proxyless-cifar": (
        *(10, 32, 5731530, 4413, 1213155872),
        "4ed39d90657a78fffc29de0c76b71836dba747349cf68c1715859644d1a13134",
        "d822d839e886f6e617c2a75e15b3ae7d0a164f2fbe5a95fa2d89f30285ca38a3",
    ),
    "densenas-a": (
        *(1000, 224, 4767920, 260, 251334416),
        "c5f7aff6cb9332f8969a8650dccb4febdf6e9d9d39c2b4fc289ee0fc9bf7031d",
        "b3cc13bd26ce7714adf7d56ef8ac4efc6ad0d367801088bee7b6d0dbbeeb5856",
    ),
    "densenas-b": (
        *(1000, 224, 5584080, 332, 313580096),
        "97329bc4b06b59f3b9fd2d287876829fb94bfb958ddb2a9ab25b766c8051b864",
        "4df9840a6173ac9dfa717fd4e37740661bbd3b05da045e90ef222b33aaf35fd6",
    ),
    "densenas-c": (
        *(1000, 224, 6134144, 350, 360808256),
        "528e2542f7fb891f28bc886e9741ee14d2a3b6e7e55b0efcd386f20028a86051",
        "a31aa6d681f525170f1f0ef5232c98e4bfd8f80dc566edcb1361a54db054aa8d",
    ),
}


def _mbconv(channels_in: int, channels: int, k: int, s: int, e: int, *, shortcut: bool = False) -> dict[str, Any]:
    return {"op": "mbconv", "cin": channels_in, "cout": channels, "k": k, "s": s, "e": e, "shortcut": shortcut}


def _tree_block(channels: int, shortcut: str, operations: str) -> dict[str, Any]:
    """A block from twelve operations: of each branch the two edges, then the leaves behind each of them."""
    names = operations.split()
    branches = [
        {"edges": names[at : at + 2], "leaves": [names[at + 2 : at + 4], names[at + 4 : at + 6]]} for at in (0, 6)
    ]
    return {"cell_channels": channels, "shortcut": shortcut, "branches": branches}


# Small networks of every kind of block.
MBV2: dict[str, Any] = {
    "net_type": "mbv2",
    "net_config": [
        [[8, 8], "mbconv_k3_t1", [], 0, 1],
        [[8, 12], "mbconv_k5_t6", ["mbconv_k3_t3", "skip_connect", "mbconv_k7_t6"], 3, 2],
        [[12, 12], "mbconv_k7_t3", ["mbconv_k5_t3"], 1, 2],
        [[12, 20], "skip_connect", ["mbconv_k3_t6", "skip_connect"], 2, 1],
        [[20, 28], "conv1_1"],
    ],
}
BOTTLENECK: dict[str, Any] = {
    "net_type": "res",
    "net_config": [
        [[32, 8], "bottle_neck", ["bottle_neck", "skip_connect", "bottle_neck"], 3, 1],
        [[8, 12], "bottle_neck", [], 0, 2],
        [[12, 12], "bottle_neck", ["bottle_neck"], 1, 2],
    ],
}
MIXED: dict[str, Any] = {
    "net_type": "res",
    "net_config": [
        [[8, 8], "basic_block", ["basic_block"], 1, 2],
        [[8, 32], "basic_block", [], 0, 1],
        [[32, 10], "bottle_neck", ["skip_connect", "bottle_neck"], 2, 2],
    ],
}
MOBILE: dict[str, Any] = {
    "network": "mobile",
    "bn": {"momentum": 0.1, "eps": 0.001},
    "stem": 8,
    "blocks": [
        {"op": "zero"},
        _mbconv(8, 8, 3, 1, 1, shortcut=True),
        _mbconv(8, 12, 5, 2, 3),
        {"op": "zero"},
        {"op": "zero"},
        _mbconv(12, 12, 7, 1, 6, shortcut=True),
        _mbconv(12, 12, 3, 2, 6),
    ],
    "feature_mix": 20,
}
TREE: dict[str, Any] = {
    "network": "tree",
    "stem": 6,
    "blocks": [
        _tree_block(
            4,
            "identity",
            "dwsep3x3 identity dwsep5x5 maxpool3x3 avgpool3x3 dwsep7x7 "
            "dwsep3x3_d2 avgpool3x3 identity dwsep3x3 dwsep5x5 dwsep3x3_d2",
        ),
        _tree_block(
            6,
            "avgpool2x2_s2",
            "maxpool3x3 dwsep7x7 identity identity conv1x1 dwsep3x3_d2 "
            "identity maxpool3x3 conv3x3 avgpool3x3 maxpool3x3 dwsep5x5",
        ),
    ],
}
SMALL: dict[str, dict[str, Any]] = {
    "mbv2": MBV2,
    "bottleneck": BOTTLENECK,
    "mixed": MIXED,
    "mobile": MOBILE,
    "tree": TREE,
}

# Logits of classes 0 to 3 of the first image, and the sum of the absolute logits of both, that the reference code
# gives for the networks above under `closed_form` (JaminFong/DenseNAS:models/model_derived.py with its 1000 classes,
# mit-han-lab/proxylessnas:proxyless_nas/nas_modules.py and cifar_modules.py with 10).
REFERENCE_LOGITS = {
    "mbv2": ([0.044109, 0.40256, 0.235557, -0.16391], 395.2718),
    "bottleneck": ([0.071748, 0.23369, 0.244809, -0.132946], 592.9659),
    "mixed": ([0.184306, 0.119128, 0.235286, 0.177646], 528.9974),
    "mobile": ([0.166612, 0.018116, -0.37371, 0.351931], 3.9060),
    "tree": ([-6.806574, 7.397758, -2.798422, 5.255784], 97.0878),
}

# Hash of the `.config` of the reference's network, without the settings that a tree network shares over all blocks.
REFERENCE_CONFIG = {"mobile": "31f989043d0efbff", "tree": "69adba3bd25e182d"}


def build(definition: dict[str, Any], num_classes: int, in_channels: int = 3) -> nn.Module:
    builder = densenas if "net_type" in definition else proxyless
    return builder(definition=definition, num_classes=num_classes, in_channels=in_channels).eval()


def closed_form(network: nn.Module) -> Tensor:
    """Fill a network's tensors with sines of the position, in the order of the state dict; returns two images,
    large enough for ReLU6 to cut.
    """
    for number, (name, tensor) in enumerate(network.state_dict().items()):
        if not tensor.is_floating_point():
            continue
        position = torch.arange(tensor.numel(), dtype=torch.float64)
        wave = torch.sin(position.square() % 1009 * 0.37 + number).reshape(tensor.shape)
        if tensor.ndim > 1:
            tensor.copy_(wave * 0.5 * tensor[0].numel() ** -0.5)
        elif name.endswith("running_var"):
            tensor.copy_(0.6 + 0.5 * wave)
        else:
            tensor.copy_(0.2 * wave + (1 if name.endswith("weight") else 0))
    return 20 * torch.sin(torch.arange(2 * 3 * 32 * 32, dtype=torch.float64) * 0.1).reshape(2, 3, 32, 32).float()


def plain(value: Any) -> Any:
    """JSON data with whole numbers as integers, without the settings that a tree network shares over its blocks."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in ("tree_node_config", "cell_drop_scheme")}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def shapes(definition: dict[str, Any], num_classes: int = 1000, *, prefix: str = "") -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        network = build(definition, num_classes)
    return {prefix + name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("name", REFERENCE)
def test_counts_equal_the_reference_implementations(name: str) -> None:
    classes, side, params, keys, macs, in_sorted, in_order = REFERENCE[name]
    with torch.device("meta"):
        network = registry.build(registry.parse_architecture(name), num_classes=classes, in_channels=3).eval()
        image = torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(image)
    assert (sum(p.numel() for p in network.parameters()), counter.get_total_flops()) == (params, 2 * macs)
    lines = [f"{k}:{'x'.join(map(str, v.shape))}" for k, v in network.state_dict().items()]
    assert len(lines) == keys
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == in_sorted
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == in_order


@pytest.mark.parametrize("name", SMALL)
def test_logits_equal_the_reference_implementations(name: str) -> None:
    first, total = REFERENCE_LOGITS[name]
    network = build(SMALL[name], 1000 if "net_type" in SMALL[name] else 10)
    logits = network(closed_form(network))
    assert torch.allclose(logits[0, :4], torch.tensor(first), atol=1e-5, rtol=1e-6)
    assert logits.abs().sum().item() == pytest.approx(total, abs=2e-3)


@needs_golden
@pytest.mark.parametrize(
    "name",
    ["proxyless_mini_cpu", "proxyless_mini_cifar_pyramidtree", "densenas_mini_mbv2", "densenas_mini_res_basic"],
)
def test_reference_weights_give_the_reference_logits_and_gradients(name: str) -> None:
    golden = torch.load(GOLDEN / f"{name}.pt", weights_only=True)
    meta = json.loads(golden["meta_json"])
    if "net_type" in meta:
        definition = {"net_type": meta["net_type"], "net_config": meta["net_config"]}
    else:
        definition = definition_from_config(meta["net_config"])
    network = build(definition, golden["logits"].shape[1])
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in golden["state_dict"].items()}
    network.load_state_dict(tensors, strict=True)
    if "input" in golden:
        x = golden["input"].float()
    else:
        i = torch.arange(torch.Size(meta["input_shape"]).numel())
        x = ((((i * 1103515245 + 12345) % 2**31) >> 16) & 255).div(127.5).sub(1).reshape(meta["input_shape"])
    x.requires_grad_()
    logits = network(x)
    assert torch.allclose(logits, golden["logits"], atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(logits, golden["labels"]), x)
    assert torch.allclose(gradient.flatten()[:16], golden["input_grad_first16"], atol=1e-5, rtol=0)
    if "input_grad" in golden:
        assert torch.allclose(gradient, golden["input_grad"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 28, 28), (3, 33, 47)])
@pytest.mark.parametrize("name", SMALL)
def test_every_kind_of_block_runs_on_any_size(name: str, size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    network = build(SMALL[name], 7, size[0])
    x = torch.rand(3, *size, requires_grad=True)
    logits = network(x)
    assert logits.shape == (3, 7)
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any()
    twin = build(SMALL[name], 7, size[0])
    twin.load_state_dict(load(save(network.state_dict())))
    assert torch.equal(twin(x), logits)
    network.train()(x.detach())


def test_reading_files_needs_no_torch() -> None:
    code = (
        "import sys; from models.architectures import densenas_inference, proxyless_config; "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


class TestNetConfig:
    """The `net_config` files of DenseNAS."""

    def test_reads_the_authors_layout(self) -> None:
        text = """[[16, 16], 'mbconv_k3_t1', [], 0, 1]|
            [[16, 24], 'mbconv_k3_t6', ['mbconv_k7_t3',
            'skip_connect'], 2, 2]|[[24, 1984], 'conv1_1']
            net_type: mbv2
            anything"""
        assert parse_net_config(text) == {
            "net_type": "mbv2",
            "net_config": [
                [[16, 16], "mbconv_k3_t1", [], 0, 1],
                [[16, 24], "mbconv_k3_t6", ["mbconv_k7_t3", "skip_connect"], 2, 2],
                [[24, 1984], "conv1_1"],
            ],
        }

    @pytest.mark.parametrize("definition", [MBV2, BOTTLENECK, MIXED, *(shipped("densenas").values())])
    def test_round_trip(self, definition: dict[str, Any]) -> None:
        assert parse_net_config(format_net_config(definition)) == densenas_space.check(definition)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[[16, 16], 'skip_connect', [], 0, 2]", "net_type"),
            ("[[16, 24], 'basic_block', [], 0, 2]\nnet_type: vgg", "vgg"),
            ("\nnet_type: res", "block 0"),
            ("__import__('os').system('true')\nnet_type: res", "lists, names and numbers"),
            ("[[16, 24], 'basic_block', [], 0, 2]|\nnet_type: res", "block 1"),
            ("[" * 5000 + "\nnet_type: res", "block 0"),
            ("[[16, 24], 'basic_block', ['basic_block'], 0, 2]\nnet_type: res", "says 0 stack operations and lists 1"),
            ("[[16, 24], 'basic_block', [], 0, 3]\nnet_type: res", "stride"),
            ("[[16, 24], 'mbconv_k4_t3', [], 0, 2]\nnet_type: res", "mbconv_k4_t3"),
            ("[[16, 24], 'basic_block', [], 0, 2]|[[32, 24], 'basic_block', [], 0, 2]\nnet_type: res", "width 24"),
            ("[[16, 24], 'mbconv_k3_t3', [], 0, 2]\nnet_type: mbv2", "conv1_1"),
            ("[[24, 99], 'conv1_1']\nnet_type: mbv2", "blocks before it"),
            # The original multiplies a bottleneck's input by four unless it is 32, so neither of these runs there.
            ("[[16, 24], 'bottle_neck', [], 0, 2]\nnet_type: res", "takes a map of width 64"),
            ("[[32, 32], 'bottle_neck', ['bottle_neck'], 1, 2]\nnet_type: res", "gets one of width 128"),
        ],
    )
    def test_anything_else_is_refused(self, text: str, said: str) -> None:
        with pytest.raises(InvalidSpec, match=said):
            parse_net_config(text)

    BLOCKS = (
        [[8, 8], "mbconv_k3_t1", [], 0, 1],
        [[8, 16], "mbconv_k3_t3", ["mbconv_k3_t3"], 1, 2],
        [[16, 32], "conv1_1"],
    )
    RES = ([[32, 48], "basic_block", ["basic_block"], 1, 2], [[48, 72], "basic_block", [], 0, 2])

    @pytest.mark.parametrize(("blocks", "net_type"), [(BLOCKS, "mbv2"), (RES, "res")])
    @pytest.mark.parametrize("typed", [True, False])
    def test_people_have_the_blocks_in_many_ways(self, blocks: tuple[Any, ...], net_type: str, typed: bool) -> None:
        """As text or JSON, with the type said or told by the operations."""
        said = {"net_type": net_type} if typed else {}
        joined = "|\n".join(map(str, blocks))
        texts = [
            joined + (f"\nnet_type: {net_type}" if typed else ""),
            json.dumps({**said, "net_config": blocks}),
            json.dumps({**said, "net_config": joined.replace("\n", "")}),
            repr({"net_config": list(blocks), **said}),
        ]
        if not typed:
            texts += [json.dumps(blocks), f"net_config = {list(blocks)}"]
        expected = {"net_type": net_type, "net_config": [list(block) for block in blocks]}
        for text in texts:
            assert definitions.read(text).to_dict() == {"space": "densenas", "data": expected}, text

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ('[[[8, 8], "skip_connect", [], 0, 1]]', "does not say its type: end it with a line 'net_type: mbv2'"),
            ('{"net_config": []}', "does not say its type"),
            ("[[8, 8], 'mbconv_k3_t1', [], 0, 1]|[[8, 16], 'basic_block', [], 0, 2]", "does not say its type"),
            ("[[8, 8], 'mbconv_k3_t1', [], 0, 1]|[[8, 16], 'mbconv_k3_t3', [], 0, 2]", "ends with"),
            ("[[8, 8], 'mbconv_k3_t1', [], 0, 1]", "ends with"),
            ('{"net_type": "vgg", "net_config": []}', "mbv2 or res"),
            ('{"net_type": ["mbv2"], "net_config": []}', "mbv2 or res"),
            ("[[8, 9999999], 'basic_block', [], 0, 1]", "channels must be 1 to 65536"),
        ],
    )
    def test_what_is_missing_is_said(self, text: str, says: str) -> None:
        with pytest.raises(InvalidSpec, match=says):
            definitions.read(text)


class TestInference:
    """A DenseNAS network from the names and shapes of its tensors."""

    @pytest.mark.parametrize("name", ["densenas-a", "densenas-b", "densenas-c"])
    def test_published_networks(self, name: str) -> None:
        definition = densenas_space.check(shipped("densenas")[name])
        found = infer_net_config(shapes(definition, prefix="module."))
        assert (found.definition, found.num_classes, found.in_channels) == (definition, 1000, 3)
        assert "search space" in found.assumptions[0]

    def test_bottlenecks_of_the_search_space(self) -> None:
        blocks = [
            [[32, 48], "bottle_neck", ["bottle_neck", "skip_connect", "bottle_neck"], 3, 2],
            [[48, 112], "bottle_neck", [], 0, 2],
            [[112, 176], "bottle_neck", ["bottle_neck"], 1, 2],
            [[176, 208], "bottle_neck", [], 0, 1],
            [[208, 512], "bottle_neck", [], 0, 2],
        ]
        definition = {"net_type": "res", "net_config": blocks}
        found = infer_net_config(shapes(definition, 12))
        assert (found.definition, found.num_classes) == (definition, 12)
        assert "1 stand" in found.assumptions[1]

    def test_strides_that_only_the_product_settles(self) -> None:
        blocks = [[[8, 8], "basic_block", ["basic_block"], 1, 2], [[8, 8], "basic_block", [], 0, 1]]
        blocks += [[[c, c + 2], "basic_block", [], 0, 2] for c in (8, 10, 12)]
        definition = {"net_type": "res", "net_config": blocks}
        found = infer_net_config(shapes(definition))
        assert found.definition == definition
        assert "[2, 1, 2, 2, 2] is assumed" in found.assumptions[0]

    def test_strides_that_nothing_settles_are_asked_for(self) -> None:
        found = shapes(MBV2)
        with pytest.raises(WeightsError, match="net_config file"):
            infer_net_config(found)
        expected = copy.deepcopy(MBV2)
        del expected["net_config"][3][2][-1]
        expected["net_config"][3][3:] = [1, 1]
        # A head that is skip_connect is never strided, whatever its entry says.
        assert infer_net_config(found, strides=[1, 2, 2, 1]).definition == expected
        assert shapes(expected) == found
        with pytest.raises(WeightsError, match="allow 1/2, 1/2, 1/2, 1"):
            infer_net_config(found, strides=[1, 2, 2, 2])
        with pytest.raises(WeightsError, match="do not fit"):
            infer_net_config(found, strides=[1, 2])

    @pytest.mark.parametrize(
        "change",
        [
            {"input_block.0.weight": ()},
            {"classifier.weight": (1000, 385)},
            {"blocks.1.head_layer._project_conv.0.weight": (24, 50, 1, 1)},
            {"blocks.2.head_layer._depthwise_conv.0.weight": (144, 1, 4, 4)},
            {"blocks.99999999.head_layer.conv1.weight": (8, 8, 3, 3)},
            {"conv1_1_block.conv1_1.0.weight": (1984, 7, 1, 1)},
        ],
    )
    def test_other_tensors_are_refused(self, change: dict[str, tuple[int, ...]]) -> None:
        found = shapes(shipped("densenas")["densenas-a"])
        assert infer_net_config(found)
        with pytest.raises(WeightsError):
            infer_net_config(found | change)


class TestProxylessConfig:
    """The `.config` files of ProxylessNAS, and our compact definitions."""

    @pytest.mark.parametrize("definition", [MOBILE, TREE, *(shipped("proxyless").values())])
    def test_round_trip(self, definition: dict[str, Any]) -> None:
        config = json.loads(json.dumps(config_from_definition(definition, num_classes=12, in_channels=1)))
        assert definition_from_config(config) == proxyless_space.check(definition)

    @pytest.mark.parametrize("name", REFERENCE_CONFIG)
    def test_what_is_written_equals_what_the_reference_writes(self, name: str) -> None:
        config = config_from_definition(SMALL[name], num_classes=10, pool=16)
        assert digest(plain(config)) == REFERENCE_CONFIG[name]

    def test_settings_that_the_authors_code_ignores_or_fills_in(self) -> None:
        """Defaults may be missing; a zero block passes its input on whatever its shortcut is."""
        config = config_from_definition(MOBILE, num_classes=10)
        for key in ("dilation", "groups", "bias", "dropout_rate", "has_shuffle", "ops_order"):
            del config["first_conv"][key]
        config["blocks"][0] = {"mobile_inverted_conv": {"name": "ZeroLayer", "stride": 2}, "shortcut": None}
        config["blocks"][0]["name"] = "MobileInvertedResidualBlock"
        config["blocks"][2]["shortcut"] = {"name": "ZeroLayer", "stride": 2}
        config["blocks"][2]["mobile_inverted_conv"]["mid_channels"] = None
        assert definition_from_config(config) == MOBILE
        del config["bn"]
        assert definition_from_config(config)["bn"]["eps"] == 1e-5, "torch's default, as in the authors' code"

    def test_settings_that_a_tree_network_shares(self) -> None:
        """`tree_node_config` overrides the nodes, its BatchNorm only the first below each root; blocks' own drop
        rates are overridden too. The reference builds the same network from both files.
        """
        config = config_from_definition(TREE, num_classes=10)
        config |= {"tree_node_config": {"has_branch_bn": True, "path_drop_rate": 0}, "cell_drop_scheme": "linear"}
        first = config["blocks"][1]["cell"]["child_nodes"][0]
        first["has_branch_bn"], first["path_drop_rate"] = False, 0.3
        first["child_nodes"][0]["has_branch_bn"] = True
        config["blocks"][1]["cell_drop_rate"] = 0.4
        assert definition_from_config(config) == TREE
        del config["tree_node_config"]
        with pytest.raises(InvalidSpec, match="has_branch_bn is False, not True"):
            definition_from_config(config)

    @pytest.mark.parametrize(
        ("place", "value", "said"),
        [
            (("name",), "ResNet", "ProxylessNASNets"),
            (("cell_drop_rate",), 0.1, "cell_drop_rate is 0.1, not 0"),
            (("bn",), {"eps": 1.0}, "bn is no setting"),
            (("blocks",), 3, "not laid out"),
            (("blocks", 1, "cell"), None, "not laid out"),
            (("blocks", 1, "cell", "in_channels"), 5, "even"),
            (("blocks", 1, "cell", "edges", 0, "bias"), True, r"cell\.edges\[0\]\.bias is True, not False"),
            (("blocks", 1, "cell", "child_nodes", 0, "merge_type"), "concat", "merge_type is 'concat', not 'add'"),
            (("blocks", 1, "cell", "child_nodes", 0, "child_nodes", 0, "edges", 0, "name"), "LinearLayer", "LinearL"),
            (("blocks", 2, "shortcut", "pool_type"), "max", "pool_type is 'max', not 'avg'"),
            (("blocks", 2, "out_bottle", "out_channels"), 25, "out_channels is 25, not 24"),
            (("classifier", "in_features"), 96, "in_features is 96, not 24"),
            (("classifier", "dropout_rate"), 0.5, "dropout_rate is 0.5, not 0"),
        ],
    )
    def test_networks_of_another_kind_are_refused(self, place: tuple[Any, ...], value: Any, said: str) -> None:
        config: Any = config_from_definition(TREE, num_classes=10)
        at = config
        for step in place[:-1]:
            at = at[step]
        at[place[-1]] = value
        with pytest.raises(InvalidSpec, match=said):
            definition_from_config(config)

    @pytest.mark.parametrize(
        ("definition", "place", "value", "said"),
        [
            (MOBILE, ("network",), "vgg", "mobile"),
            (MOBILE, ("bn",), {"eps": 0}, "eps"),
            (MOBILE, ("blocks",), [], "one at least"),
            (MOBILE, ("feature_mix",), 0, "feature_mix"),
            (MOBILE, ("blocks", 1, "k"), 4, "k is odd"),
            (MOBILE, ("blocks", 1, "cin"), 9, "takes 9 channels, but gets 8"),
            (MOBILE, ("blocks", 2, "shortcut"), True, "equal channels and stride 1"),
            (TREE, ("stem",), 17, "fewer than the 17"),
            (TREE, ("blocks", 0, "shortcut"), "maxpool", "shortcut"),
            (TREE, ("blocks", 0, "branches"), [], "two branches"),
            (TREE, ("blocks", 0, "branches", 1, "edges", 0), "dwsep2x2", "operations are"),
            (TREE, ("blocks", 0, "branches", 1, "leaves", 0), ["identity"], "pairs"),
        ],
    )
    def test_definitions_are_checked(
        self, definition: dict[str, Any], place: tuple[Any, ...], value: Any, said: str
    ) -> None:
        changed: Any = copy.deepcopy(definition)
        at = changed
        for step in place[:-1]:
            at = at[step]
        at[place[-1]] = value
        with pytest.raises(InvalidSpec, match=said):
            proxyless_space.check(changed)
