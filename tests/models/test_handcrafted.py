"""Hand-crafted networks against the classes that their released weights were made by."""

from __future__ import annotations

import hashlib
import random
from math import sqrt

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.architectures import registry
from models.architectures.densenet import HalveAverage
from models.errors import InvalidSpec

# Counted on the reference classes: huyvnphan/PyTorch_CIFAR10; RobustBench's WideResNet and, with sub_block1, TRADES's;
# RobustBench's DMWideResNet, which is deepmind-research's, without the constants of its normalisation; torchvision's
# bodies under the head of fastai v1. Classes, parameters, state_dict keys, multiply-adds at 32x32, SHA-256 of the lines
# "key:AxBxC" in the order of the state_dict.
COUNTS = {
    "resnet18": (
        (10, 11_173_962, 122, 140_186_624),
        "6a87233a35c028c8aebc4bb9fcd5ef33842126f12f1043feedfd543746f4bc2c",
    ),
    "resnet34": (
        (10, 21_282_122, 218, 291_181_568),
        "bdec06f2861bf71ccb2598ac2da6bad50de374456dcaf8d4c74011af6fb30ec1",
    ),
    "resnet50": (
        (10, 23_520_842, 320, 325_799_936),
        "4319f28ed46a90dd353f17671ddb5b9c6a83dc1f3ba0c40e92a8429f5b9e6e7a",
    ),
    "vgg11-bn": (
        (10, 28_149_514, 62, 171_679_744),
        "020b9c9119affb3c91c9eb6f9cce7102a5751896609eef15d835c0936502e2ee",
    ),
    "vgg13-bn": (
        (10, 28_334_410, 76, 247_177_216),
        "5317ca0764f3d0f7a7a4e4abe682b9f877f0381d43791d5c2e142ee8c53f1109",
    ),
    "vgg16-bn": (
        (10, 33_646_666, 97, 332_111_872),
        "341200416fe18bb82350f3beecd7f62eae042420b106433faa95c001719817b8",
    ),
    "vgg19-bn": (
        (10, 38_958_922, 118, 417_046_528),
        "0b57230953482db6d82f0a7c1d3c92617cf1031e19bdfedb76d587a864399bfa",
    ),
    "densenet121": (
        (10, 6_956_426, 727, 223_422_464),
        "61f2dd40c91469ac97534dd4be7f29b1af75b1cf48de7260544a7ca56ffb2ccc",
    ),
    "densenet161": (
        (10, 26_482_570, 967, 618_894_912),
        "2b55c63a45a8d18e1fd61496ed868ac01d24099fa75f4ca2c00d8051387beb6c",
    ),
    "densenet169": (
        (10, 12_493_450, 1_015, 266_289_408),
        "652ee435e407d640d680a7f59f3d3ee1bd6a6ddfa78db6db9fcc696ed85ab831",
    ),
    "mobilenet-v2": (
        (10, 2_236_682, 314, 87_976_448),
        "209a726a955da1b1fc2d2fa5cbfc334dd2e13d8ad9bcb2640b50361a9437ac53",
    ),
    "googlenet": (
        (10, 5_490_986, 332, 1_337_141_248),
        "094428af7617edfde044b0fd72404ac64de4db6e4d0e8eff56b35a06e01fbc85",
    ),
    "inception-v3": (
        (10, 21_638_954, 542, 3_460_465_664),
        "6e7cf01f873add6887f85f1f013e1645f121bd61ead1113b7f9e28f59657e3e4",
    ),
    "wrn-28-10": (
        (10, 36_479_194, 155, 5_243_328_768),
        "9530f4f06a50a64f0a78ad3401a3e8c86d53d683479d638d24fbc7d11907e282",
    ),
    "wrn-34-10": (
        (10, 46_160_474, 191, 6_658_906_368),
        "3536d6e1b6904716e77cee4a84ae233f802554b5d20ff346248da623331e5f10",
    ),
    "wrn-34-20": (
        (10, 184_531_674, 191, 26_581_856_768),
        "7d26175248c7f595b6fac6e2a15cda18edc8272abc8d07b74ffe915dd47261a6",
    ),
    "wrn-70-16": (
        (10, 266_796_506, 407, 38_764_210_176),
        "3ffb6365030df9bb9ac108b4744bae207daf53df353c53951619462afae43f59",
    ),
    "wrn-34-10@sub_block1=true": (
        (10, 48_262_586, 252, 6_658_906_368),
        "2c7fcd0be448e9231896bc3b2d88cc69c6ec217806ecf0e0252ffa48e7194255",
    ),
    "dm-wrn-28-10": (
        (10, 36_479_194, 155, 5_243_328_768),
        "e513f3d29879570a202cf1392991715775506fe3774ca66f649521e80fd91299",
    ),
    "dm-wrn-34-20": (
        (10, 184_531_674, 191, 26_581_856_768),
        "03e7fca78df933c7d19b5247e50b63c4c0545eed059948401a72143a24964aba",
    ),
    "dm-wrn-70-16": (
        (10, 266_796_506, 407, 38_764_210_176),
        "5e3b59810c6e7dae0987199740cbfe2fbc820000086744ae72bfed633411cbf3",
    ),
    "dm-wrn-94-16": (
        (10, 365_915_610, 551, 53_259_724_800),
        "93ab542449a32cd11d244de267295c9171926ced45d9269176a96b9bde4da963",
    ),
    "fastai-resnet18": (
        (100, 11_755_684, 134, 37_586_944),
        "f3fd2993c3c02618038e5abe9fcdc3c6c5dcfa882338c7f8ea2f076b432008a9",
    ),
    "fastai-resnet34": (
        (100, 21_863_844, 230, 75_335_680),
        "fbe7caca89b43c8d0a121fc8ecd73f8717ca145f513024a719750f337adb21af",
    ),
    "fastai-resnet50": (
        (100, 25_666_212, 332, 85_559_296),
        "65d8e04232ad55f3c68cd5cb60c45b129bc9ea11ca5de7ae767dc62d80ababd0",
    ),
    "fastai-densenet121": (
        (100, 8_059_364, 739, 58_918_912),
        "c110270ee09aebc926297bad5a4ddaf586ac84d3abb08c864d1bf4231d5d8f06",
    ),
    "fastai-densenet161": (
        (100, 28_794_660, 979, 159_979_520),
        "ae28c67a618566e1a937fadccf3242855dfa57092cbc07bf9f11532d2f5ca9de",
    ),
    "fastai-densenet169": (
        (100, 14_247_908, 1_027, 70_289_408),
        "0a9b7ae84799240e85b2f3bf4c7674d274b7202f34e2f1414726f81f93f62980",
    ),
    "fastai-vgg11-bn": (
        (100, 9_805_156, 70, 153_339_904),
        "4f8c9e532eaf4521f9bfa8c935ba450c9e11273eb5415d77538002071448331b",
    ),
    "fastai-vgg13-bn": (
        (100, 9_990_052, 84, 228_837_376),
        "10b1dd33062128208c8616f9af8d907f71061e337476ef4d036abed5814f74a8",
    ),
    "fastai-vgg16-bn": (
        (100, 15_302_308, 105, 313_772_032),
        "85a5c67f68027db88a487f5f7dc67ea4847d9c0161103922349cb8d4a9ae5ab2",
    ),
    "fastai-vgg19-bn": (
        (100, 20_614_564, 126, 398_706_688),
        "78a6ac1cebf85fecf58d25af8d87c44d444ca56550a19b41a102d2665083662b",
    ),
}

# The first three logits of the same reference classes, with weights and image by formula (see `by_formula`).
LOGITS = {
    "resnet18": (-217.6596, 104.1917, -11.85763),
    "resnet34": (7793.873, -5401.248, -9485.966),
    "resnet50": (17459.5, 2915.465, 7231.966),
    "vgg11-bn": (-3.99718, -11.49532, 8.162868),
    "vgg13-bn": (3.537748, 3.288663, 12.40656),
    "vgg16-bn": (-2.325033, 3.164392, 12.74055),
    "vgg19-bn": (1.410964, 2.10386, 1.006433),
    "densenet121": (-0.1112859, 5.144201, -6.489255),
    "densenet161": (-7.250138, -3.274884, 2.68085),
    "densenet169": (-2.269044, -13.33582, 1.876842),
    "mobilenet-v2": (1.694257, 4.962163, 0.7271414),
    "googlenet": (-21.76741, -14.80461, -8.410958),
    "inception-v3": (-4.557872, -0.8156198, 15.26346),
    "fastai-resnet18": (27.06026, 33.71631, -38.95271),
    "fastai-resnet34": (234.5723, 105.1294, -301.7622),
    "fastai-resnet50": (-2087.457, 4153.717, 1951.763),
    "fastai-densenet121": (-12.72387, -3.446734, -1.85044),
    "fastai-densenet161": (-2.2504, 0.8498249, -9.115293),
    "fastai-densenet169": (3.53743, -3.68388, -4.29061),
    "fastai-vgg11-bn": (8.834689, 14.31251, 31.39791),
    "fastai-vgg13-bn": (19.64759, -8.797937, -5.943259),
    "fastai-vgg16-bn": (-2.210165, -11.68801, 6.800433),
    "fastai-vgg19-bn": (2.27156, 0.4849492, 4.541158),
    "wrn-28-10@depth=16,widen_factor=2": (-13.87857, -0.8774434, 13.29127),
    "dm-wrn-28-10@depth=16,widen_factor=2": (-12.672, 1.161683, 14.75207),
    "dm-wrn-28-10@depth=16,widen_factor=2,activation=relu": (-14.07578, 0.9548277, 16.7982),
}

_random = random.Random(0)
#: A prime number of values, so that the repeated pattern meets no two filters in the same place.
UNIFORM = torch.tensor([_random.random() for _ in range(9973)])


def by_formula(shape: torch.Size, offset: int) -> Tensor:
    """Values in [0, 1), the same on every machine and version of torch."""
    return UNIFORM.roll(-offset).repeat(shape.numel() // len(UNIFORM) + 1)[: shape.numel()].reshape(shape)


def state_by_formula(network: nn.Module) -> dict[str, Tensor]:
    """Weights with the variance that keeps signals alive, and BatchNorm statistics that show a wrong eps or order."""
    state: dict[str, Tensor] = {}
    for position, (key, tensor) in enumerate(network.state_dict().items()):
        values = by_formula(tensor.shape, 37 * position)
        if not tensor.is_floating_point():
            state[key] = torch.zeros((), dtype=tensor.dtype)
        elif tensor.dim() > 1:
            state[key] = (values - 0.5) * sqrt(24 / tensor[0].numel())
        elif key.endswith(("bias", "running_mean")):
            state[key] = (values - 0.5) / 2
        else:
            state[key] = values + 0.5
    return state


IMAGE = (by_formula(torch.Size((1, 3, 32, 32)), 0) - 0.5) * 4


def on_meta(name: str, num_classes: int) -> nn.Module:
    with torch.device("meta"):
        return registry.build(registry.parse_architecture(name), num_classes=num_classes, in_channels=3).eval()


def macs(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(IMAGE.to("meta"))
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("name", COUNTS)
def test_counts_and_logits_equal_the_reference_implementations(name: str) -> None:
    (num_classes, *expected), digest = COUNTS[name]
    network = on_meta(name, num_classes)
    state = network.state_dict()
    assert [sum(p.numel() for p in network.parameters()), len(state), macs(network)] == expected
    lines = [f"{key}:{'x'.join(map(str, tensor.shape))}" for key, tensor in state.items()]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest
    if name in LOGITS:
        assert_reference_logits(network, LOGITS[name])


@pytest.mark.parametrize("name", [name for name in LOGITS if "wrn" in name])
def test_wide_resnets_give_the_reference_logits(name: str) -> None:
    network = on_meta(name, 10)
    assert_reference_logits(network, LOGITS[name])


def assert_reference_logits(network: nn.Module, expected: tuple[float, ...]) -> None:
    network.load_state_dict(state_by_formula(network), strict=True, assign=True)
    with torch.no_grad():
        logits = network(IMAGE)[0]
    assert (logits[: len(expected)] - torch.tensor(expected)).abs().max() < 1e-4 * logits.abs().max()


@pytest.mark.parametrize(("name", "cut"), [("resnet50", -2), ("densenet121", -1), ("vgg11_bn", -1)])
def test_fastai_layout_is_torchvisions_body_under_the_head(name: str, cut: int) -> None:
    """Put together here by hand: torchvision's own layers before the cut, then the head as fastai documents it."""
    ours = on_meta(f"fastai-{name}", 100)
    ours.load_state_dict(state_by_formula(ours), assign=True)
    with torch.device("meta"):
        body = nn.Sequential(*list(torchvision.models.get_model(name, weights=None).children())[:cut])
        head = ours.get_submodule("1")
        theirs = nn.Sequential(body, head).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    with torch.no_grad():
        features = body(IMAGE)
        pooled = torch.cat([features.amax((2, 3)), features.mean((2, 3))], dim=1)
        _, _, norm1, _, linear1, _, norm2, _, linear2 = head.children()
        logits = linear2(norm2(linear1(norm1(pooled)).relu()))
        assert torch.allclose(ours(IMAGE), logits, rtol=0, atol=1e-5 * float(logits.abs().max()))


SIZES = [(1, 8, 8), (3, 33, 47)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "name",
    [
        *("vgg11-bn", "densenet121", "mobilenet-v2", "googlenet", "inception-v3", "wrn-34-10", "dm-wrn-28-10"),
        "fastai-densenet121",
    ],
)
def test_image_sizes(name: str, size: tuple[int, int, int]) -> None:
    spec = registry.parse_architecture(name, scale="small")
    network = registry.build(spec, num_classes=7, in_channels=size[0]).eval()
    x = torch.rand(2, *size, requires_grad=True)
    logits = network(x)
    assert logits.shape == (2, 7)
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert torch.isfinite(gradient).all()
    assert (gradient != 0).any()


@pytest.mark.parametrize("name", ["googlenet", "inception-v3"])
def test_networks_with_auxiliary_heads_have_none_here(name: str) -> None:
    """The published classes keep 10 classes whatever is asked for; ours have as many as asked, in training too."""
    network = registry.build(registry.parse_architecture(name), num_classes=100, in_channels=3).train()
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 100)


def test_one_pixel_passes_a_transition_and_larger_maps_are_averaged() -> None:
    x = torch.rand(1, 2, 4, 4)
    assert torch.equal(HalveAverage()(x), nn.functional.avg_pool2d(x, 2))
    assert torch.equal(HalveAverage()(x[..., :1, :1]), x[..., :1, :1])


def test_the_stage_that_trades_registers_does_not_change_the_logits() -> None:
    plain, trades = (
        registry.build(registry.parse_architecture(f"wrn-34-10@{options}"), num_classes=10, in_channels=3).eval()
        for options in ("depth=10,widen_factor=1", "depth=10,widen_factor=1,sub_block1=true")
    )
    state = trades.state_dict()
    assert any(key.startswith("sub_block1.") for key in state)
    plain.load_state_dict({k: v for k, v in state.items() if not k.startswith("sub_block1.")}, strict=True)
    assert torch.equal(plain(IMAGE), trades(IMAGE))


def test_names_of_options_are_those_of_either_code() -> None:
    for text in ("dm-wrn-28-10@depth=70,width=16", "DM_WRN_28_10@activation_fn=swish,depth=70,widen_factor=16"):
        assert registry.parse_architecture(text).canonical == ("dm-wrn-28-10@depth=70,widen_factor=16,activation=swish")
    assert registry.find("wrn-70-16-swish").name == "dm-wrn-70-16"


def test_quiet_option_stays_out_of_the_canonical_name() -> None:
    assert registry.parse_architecture("WRN_34_10").canonical == "wrn-34-10@depth=34,widen_factor=10"
    assert registry.parse_architecture("wrn-34-10@sub_block1=true").canonical == (
        "wrn-34-10@depth=34,widen_factor=10,sub_block1=true"
    )


def test_published_names_are_known() -> None:
    assert registry.find("huyvnphan_densenet161").name == "densenet161"
    assert registry.find("fastai_v1_cnn_learner_resnet34").name == "fastai-resnet34"
    assert registry.find("VGG19_BN").name == "vgg19-bn"
    assert registry.parse_architecture("resnet18").canonical == "resnet18@width=64"
    assert registry.parse_architecture("vgg16", scale="small").canonical == "vgg16-bn@width=16"


def test_what_cannot_be_built_is_refused_with_a_way_out() -> None:
    for name in ("wrn-28-10", "dm-wrn-28-10"):
        with pytest.raises(InvalidSpec, match="depth=28 or depth=34"):
            registry.build(registry.parse_architecture(f"{name}@depth=30"), num_classes=10, in_channels=3)
    network = on_meta("inception-v3", 10)
    with pytest.raises(InvalidSpec, match="at least 7x7 pixels, not 6x9"):
        network(torch.empty(1, 3, 6, 9, device="meta"))
